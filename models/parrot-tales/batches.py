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
PROMPT_WEIGHT = 0.2
PROMPT_SHARE = 0.15
SHORT_ANSWER = 6  # tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """`ids` [B, T]; `places` [N] index the flat positions whose next token is learnt, with `weights`; `answers`
    [N] says which of them are of answers."""

    ids: Tensor
    places: Tensor
    targets: Tensor
    weights: Tensor
    answers: Tensor
    tokens: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """`weights`: of each token, 0 outside of answers."""

    ids: list[int]
    weights: list[float]


def encode(tokenizer: Tokenizer, stream: Iterable[Example]) -> list[Encoded]:
    """Each piece by itself, as a server does it; what is longer than `LONGEST` is left out."""
    documents = [example.pieces for example in stream]
    flat = [piece for pieces in documents for piece in pieces]
    tokens = iter(tokenizer.encode_batch_fast([piece.text for piece in flat], add_special_tokens=False))
    encoded = []
    for pieces in documents:
        ids: list[int] = []
        weights: list[float] = []
        for piece in pieces:
            part = next(tokens).ids
            ids += part
            weights += [_answer_weight(len(part)) if piece.is_answer else 0.0] * len(part)
        if len(ids) <= LONGEST:
            encoded.append(Encoded(ids, weights))
    return encoded


def _answer_weight(length: int) -> float:
    """A long answer counts for more than a short one, but not by its length: most of its tokens are copied with
    ease, and those of "The text does not tell." decide something."""
    return float((SHORT_ANSWER / max(length, SHORT_ANSWER)) ** 0.5)


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
    answers: list[bool] = []
    for row, document in enumerate(group):
        ids[row, : len(document.ids)] = torch.tensor(document.ids)
        for position, (token, weight) in enumerate(zip(document.ids[1:], document.weights[1:], strict=True)):
            # Of the prompt only a share is learnt: its words are drawn at random and teach little.
            if weight or rng.random() < PROMPT_SHARE:
                places.append(row * width + position)
                targets.append(token)
                weights.append(weight or PROMPT_WEIGHT)
                answers.append(weight > 0)
    tokens = sum(len(document.ids) for document in group)
    learnt = (torch.tensor(places), torch.tensor(targets), torch.tensor(weights), torch.tensor(answers))
    return Batch(ids, *learnt, tokens)
