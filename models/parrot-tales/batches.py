"""Token batches out of the example stream: examples of like length side by side, padded at the right.

Padding behind the end needs no mask in a causal model, and no example sees another one. Invariant: a
chunk's batches are a function of (seed, chunk), so a run that was cut goes on with exactly the batches it
would have seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

import torch
from make_data import examples
from prompts import Example
from tokenizers import Tokenizer
from torch import Tensor

LONGEST = 1024
PROMPT_WEIGHT = 0.5
PROMPT_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class Batch:
    """`ids` [B, T]; `places` [N] index the flat positions whose next token is learnt, with `weights`."""

    ids: Tensor
    places: Tensor
    targets: Tensor
    weights: Tensor
    tokens: int


@dataclass(frozen=True, slots=True)
class Encoded:
    ids: list[int]
    is_answer: list[bool]


def encode(tokenizer: Tokenizer, stream: Iterable[Example]) -> list[Encoded]:
    """Each piece by itself, as a server does it; what is longer than `LONGEST` is left out."""
    documents = [example.pieces for example in stream]
    flat = [piece for pieces in documents for piece in pieces]
    tokens = iter(tokenizer.encode_batch_fast([piece.text for piece in flat], add_special_tokens=False))
    encoded = []
    for pieces in documents:
        ids: list[int] = []
        is_answer: list[bool] = []
        for piece in pieces:
            part = next(tokens).ids
            ids += part
            is_answer += [piece.is_answer] * len(part)
        if len(ids) <= LONGEST:
            encoded.append(Encoded(ids, is_answer))
    return encoded


def chunk_batches(tokenizer: Tokenizer, seed: int, chunk: int, limit: int, size: int) -> list[Batch]:
    """The batches of a chunk, each of about `size` padded tokens, in a drawn order."""
    rng = Random(f"batches/{seed}/{chunk}")
    documents = sorted(
        encode(tokenizer, examples(seed, chunk, limit)), key=lambda document: len(document.ids)
    )
    groups: list[list[Encoded]] = [[]]
    for document in documents:
        if groups[-1] and (len(groups[-1]) + 1) * len(document.ids) > size:
            groups.append([])
        groups[-1].append(document)
    rng.shuffle(groups)
    return [_batch(rng, group) for group in groups]


def _batch(rng: Random, group: list[Encoded]) -> Batch:
    width = max(len(document.ids) for document in group)
    ids = torch.zeros(len(group), width, dtype=torch.long)
    places: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    for row, document in enumerate(group):
        ids[row, : len(document.ids)] = torch.tensor(document.ids)
        for position, (token, is_answer) in enumerate(
            zip(document.ids[1:], document.is_answer[1:], strict=True)
        ):
            # Of the prompt only a share is learnt: its words are drawn at random and teach little.
            if is_answer or rng.random() < PROMPT_SHARE:
                places.append(row * width + position)
                targets.append(token)
                weights.append(1.0 if is_answer else PROMPT_WEIGHT)
    tokens = sum(len(document.ids) for document in group)
    return Batch(ids, torch.tensor(places), torch.tensor(targets), torch.tensor(weights), tokens)
