"""How well the model foretells the answers of held-out worlds, token by token.

Leaves to others: whether an answer is right (evaluate.py).
"""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path

import torch
import torch.nn.functional as F
from batches import Batch, chunk_batches
from make_data import HELD_OUT_SEED
from model import Decoder, Shape
from safetensors.torch import load_file
from tokenizers import Tokenizer

PADDED_TOKENS = 2048


def load(folder: Path) -> Decoder:
    """The exported folder as the decoder that was trained, in float32."""
    config = json.loads((folder / "config.json").read_text())
    decoder = Decoder(Shape(**{field.name: config[field.name] for field in fields(Shape)}))
    weights = load_file(folder / "model.safetensors")
    decoder.load_state_dict({name.removeprefix("model."): weight.float() for name, weight in weights.items()})
    return decoder


@torch.no_grad()
def perplexity(folder: Path, limit: int, chunks: int = 1) -> float:
    """Of the answers' tokens, over `chunks` of the held-out stream with texts of up to `limit` sentences."""
    decoder = load(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    loss = count = 0.0
    for chunk in range(chunks):
        for batch in chunk_batches(tokenizer, HELD_OUT_SEED, chunk, limit, PADDED_TOKENS):
            losses = _answer_losses(decoder, batch)
            loss += float(losses.sum())
            count += len(losses)
    return math.exp(loss / count)


def _answer_losses(decoder: Decoder, batch: Batch) -> torch.Tensor:
    answers = batch.answers
    states = decoder(batch.ids).flatten(0, 1)[batch.places[answers]]
    return F.cross_entropy(decoder.logits(states), batch.targets[answers], reduction="none")
