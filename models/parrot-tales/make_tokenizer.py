"""Make tokenizer.json: a byte-level BPE of at most 4,096 entries over the project's own texts.

Invariants: any text round-trips byte for byte; nothing is put before or behind a text (no BOS), so the
tokens of a prompt are the same by every path; the marks of the chat template are one token each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from make_data import examples
from prompts import ASSISTANT, END, PAD, SYSTEM, USER
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from world import BOYS, GIRLS

VOCABULARY = 4096
CONTEXT = 4096
SPECIALS = [PAD, END, SYSTEM, USER, ASSISTANT]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>"
    "{% elif message['role'] == 'assistant' %}<|assistant|>"
    "{% else %}<|system|>{% endif %}"
    "{{ message['content'] }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def texts(seed: int, chunks: int) -> Iterator[str]:
    """Every name once with and once without a space, so that each is one token, then the examples."""
    yield from (f"{name} {name}" for name in [*GIRLS, *BOYS] for _ in range(50))
    for chunk in range(chunks):
        for example in examples(seed, chunk, 20):
            for piece in example.pieces:
                yield piece.text


def train(seed: int = 0, chunks: int = 40) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    # Digits stand alone: numbers outside the world are then rare pieces, not rare tokens.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=20,
        show_progress=False,
    )
    # Without the marks in the text the trainer would learn pieces of them.
    clean = (_without_marks(text) for text in texts(seed, chunks))
    tokenizer.train_from_iterator(clean, trainer)
    return tokenizer


def _without_marks(text: str) -> str:
    for mark in SPECIALS:
        text = text.replace(mark, "\n")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    tokenizer = train()
    tokenizer.save(str(args.out / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "add_eos_token": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (args.out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(f"{tokenizer.get_vocab_size()} entries")


if __name__ == "__main__":
    main()
