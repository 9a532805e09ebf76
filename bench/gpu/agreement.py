"""Do two ways of computing the same requests agree? The gate before any figure of an engine is reported.

Two modes may round differently, and then greedy decoding may part ways, but only where the two likeliest tokens are
so close that rounding decides: their gap is under 2^-6 of the logits' scale. Until then their logprobs are no
further apart than that. Pure: works on answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from bench.gpu.drive import Answer

TIE = 2.0**-6


@dataclass(frozen=True, slots=True)
class Agreement:
    """identical: pairs with equal tokens. wrong: of those that part ways where it was no close call."""

    pairs: int
    identical: int
    wrong: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return self.pairs > 0 and not self.wrong

    def __str__(self) -> str:
        text = f"{self.identical} of {self.pairs} identical"
        return text + ("; " + "; ".join(self.wrong[:3]) if self.wrong else ", the others part at a tie")


def compare(pairs: Iterable[tuple[Answer, Answer]], vocab: int, exact: bool) -> Agreement:
    """(reference, other): references carry the two best logprobs of every token; where others carry them too, the
    numbers are compared as well. exact: nothing may differ."""
    count = identical = 0
    wrong: list[str] = []
    for reference, other in pairs:
        at = _first_difference(reference.tokens, other.tokens)
        identical += at is None
        if reason := _parted(reference, at, vocab, exact) or _far(reference, other, at, vocab, exact):
            wrong.append(f"pair {count} {reason}")
        count += 1
    return Agreement(count, identical, tuple(wrong))


def _parted(reference: Answer, at: int | None, vocab: int, exact: bool) -> str:
    """Why the tokens may not part there; empty: they do not, or at a tie."""
    if at is None:
        return ""
    if exact or at >= len(reference.logprobs):
        return f"parts at token {at}"
    gap = relative_gap(reference, at, vocab)
    return f"parts at token {at}, where the gap is {gap:.3f}" if gap >= TIE else ""


def _far(reference: Answer, other: Answer, at: int | None, vocab: int, exact: bool) -> str:
    """Whether the logprob of a token that both chose is further away than a tie is wide."""
    both = zip(reference.logprobs[:at], other.logprobs[:at], strict=False)
    for index, (left, right) in enumerate(both):
        apart = abs(left.logprob - right.logprob)
        if apart > (0.0 if exact else TIE * (left.logprob + math.log(vocab))) or math.isnan(apart):
            return f"gives token {index} a logprob {apart:.3g} away"
    return ""


def relative_gap(reference: Answer, at: int, vocab: int) -> float:
    """Between the two likeliest tokens, over the logits' scale: the best one's height over their log-mean.

    log p = logit - log(sum of exp) = logit - log(vocab) - log-mean, so that scale is log p + log(vocab).
    """
    best, second = (item.logprob for item in reference.logprobs[at].top[:2])
    return (best - second) / (best + math.log(vocab))


def _first_difference(a: list[int], b: list[int]) -> int | None:
    for index, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return index
    return None if len(a) == len(b) else min(len(a), len(b))
