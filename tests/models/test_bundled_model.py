"""The exported folder is what `transformers` and the server expect of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from batches import chunk_batches
from export import FOLDER, export
from model import Decoder, Shape
from prompts import ASSISTANT, END, SYSTEM, USER
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

MARKS = [END, SYSTEM, USER, ASSISTANT]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@pytest.mark.parametrize(
    "text", ["Once upon a time", "  two  blanks\n\n", 'Mia "said" 12,345 é 漢 🦜', "def f(x):\n\treturn x"]
)
def test_any_text_round_trips(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize("mark", MARKS)
def test_each_mark_is_one_token(tokenizer: Tokenizer, mark: str) -> None:
    assert len(tokenizer.encode(mark).ids) == 1


def test_the_folder_fits_in_the_repository() -> None:
    size = (FOLDER / "model.safetensors").stat().st_size
    assert size <= 24 * 2**20


def test_the_end_mark_is_the_end_everywhere(tokenizer: Tokenizer) -> None:
    end = tokenizer.token_to_id(END)
    for name in ("config.json", "generation_config.json"):
        assert json.loads((FOLDER / name).read_text())["eos_token_id"] == end


def test_the_template_writes_what_the_training_wrote() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == f"{SYSTEM}s{END}{USER}u{END}{ASSISTANT}"


def test_batches_of_a_chunk_are_the_same_each_time(tokenizer: Tokenizer) -> None:
    first, again = (chunk_batches(tokenizer, 1, 0, 8, 2048) for _ in range(2))
    assert all(
        torch.equal(a.ids, b.ids) and torch.equal(a.places, b.places)
        for a, b in zip(first, again, strict=True)
    )


def test_a_batch_learns_the_token_after_each_place(tokenizer: Tokenizer) -> None:
    for batch in chunk_batches(tokenizer, 1, 0, 8, 2048):
        assert torch.equal(batch.ids.flatten()[batch.places + 1], batch.targets)


def test_transformers_computes_the_same_logits_from_an_export(tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = Decoder(Shape(tokenizer.get_vocab_size(), num_hidden_layers=2))
    for weight in ours.parameters():
        weight.data = weight.data.bfloat16().float()
    export(ours, tokenizer, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.randint(5, 1000, (2, 40))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours.logits(ours(ids)), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_the_exported_model_loads_and_ends_its_answer() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    prompt = tokenizer("Write a story about a fox.\nStory:", return_tensors="pt", add_special_tokens=False)
    out = model.generate(  # type: ignore[misc]
        **prompt, max_new_tokens=300, do_sample=False, temperature=None
    )
    assert tokenizer.eos_token_id in out[0].tolist()
