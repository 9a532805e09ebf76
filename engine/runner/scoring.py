"""Log-probabilities of tokens that are there already: a prompt's.

Responsible for: the score of each row's next token, in pieces that bound the memory. A row's score is a function of
its logits alone, as sampling is. Rank 1 is the likeliest token, equals share the better rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from engine.batch import PromptScores, ScheduledSequence
from engine.types import TokenLogprobs, TopLogprob
from ops.sampling import Float32Array, Float64Array, log_softmax

ROWS_AT_ONCE = 16


def score(logits_RV: torch.Tensor, sequences: Sequence[ScheduledSequence]) -> tuple[PromptScores, ...]:
    """`logits_RV`: a row for each of the targets of all `sequences`, in order; any float dtype, any device."""
    rows = _rows(logits_RV)
    return tuple(
        PromptScores(item.slot, tuple(_scored(next(rows), target, item.top) for target in item.targets))
        for item in sequences
        if item.targets
    )


def _rows(logits_RV: torch.Tensor) -> Iterator[Float32Array]:
    for part in torch.split(logits_RV, ROWS_AT_ONCE):
        yield from part.float().cpu().numpy()


def _scored(logits_V: Float32Array, target: int, top: int) -> TokenLogprobs:
    values = log_softmax(logits_V)
    rank = int((values > values[target]).sum()) + 1
    return TokenLogprobs(float(values[target]), _likeliest(values, min(top, len(values))), rank)


def _likeliest(values_V: Float64Array, number: int) -> tuple[TopLogprob, ...]:
    """In falling order, the smaller id first among equals."""
    if not number:
        return ()
    floor = np.partition(values_V, len(values_V) - number)[len(values_V) - number]
    candidates = np.flatnonzero(values_V >= floor)
    best = candidates[np.argsort(-values_V[candidates], kind="stable")][:number]
    return tuple(TopLogprob(int(index), float(values_V[index])) for index in best)
