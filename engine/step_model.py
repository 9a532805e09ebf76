"""How long a step takes, learnt from the steps there were.

    t = a + b * sequences + c * kv_tokens + p * prefill_tokens          milliseconds, coefficients >= 0

Responsible for: recursive least squares with exponential forgetting on the relative error, so that a step of
1 ms counts as much as one of 100. The normal equations are solved by coordinate descent from the last
solution: a coefficient about which nothing new is known (p, while everybody decodes) stays as it was, and none
becomes negative. Starts from a prior whose proportions the first measured step scales.

One step that took far longer or shorter than expected (a page fault, another process) counts as little as its
size allows; several in a row are a change, and what was known is let go. Pure. Leaves to others: what fits
(Pace), and measuring.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.batch import ScheduledBatch

FORGETTING = 0.995
"""Of the weight of what was measured before, per step: a memory of about 200 steps."""

OUTLIER = 3.0
"""A step that took so many times what was expected, or less than its inverse, is cut off there."""

SUSTAINED = 8
"""So many outliers in a row are none."""


ENOUGH = 16
"""Steps from which on somebody else may be told what was learnt."""

TELL_EVERY = 64
NEWS = 0.1
"""So many steps later it is told again if a typical step takes so much more or less by then."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a step has to do. `kv_tokens`: keys that are read, those that are shared once."""

    sequences: int
    kv_tokens: int
    prefill_tokens: int


_UNITS = (1.0, 8.0, 4096.0, 256.0)
"""Typical sizes of (1, sequences, KV tokens, prefill tokens): coefficients of like magnitude."""

_PRIOR = (1.0, 0.2, 0.2, 2.5)
"""Milliseconds per unit: decoding is mostly reading weights, a prefilled token a hundredth of that."""


MIN_STEP_MS = 1e-3
"""What took less was not measured."""


class StepModel:
    """Owns what has been learnt."""

    def __init__(self) -> None:
        self._coefficients = list(_PRIOR)
        self._moments = [[0.0] * 4 for _ in range(4)]
        self._products = [0.0] * 4
        self._num_observed = 0
        self._num_surprises = 0
        self._tell_at = ENOUGH
        self._told = (0.0, 0.0, 0.0)

    @property
    def base_ms(self) -> float:
        """Of a step with nobody in it."""
        return self._coefficients[0]

    @property
    def per_sequence_ms(self) -> float:
        return self._coefficients[1] / _UNITS[1]

    @property
    def per_kv_token_ms(self) -> float:
        return self._coefficients[2] / _UNITS[2]

    @property
    def per_prefill_token_ms(self) -> float:
        return self._coefficients[3] / _UNITS[3]

    def predict(self, load: Load) -> float:
        """Milliseconds."""
        return _dot(self._coefficients, _features(load))

    def news(self) -> tuple[float, float, float] | None:
        """What whoever places work should know that was not told yet: (a, b, c) of a step that decodes."""
        if self._num_observed < self._tell_at:
            return None
        self._tell_at = self._num_observed + TELL_EVERY
        told, known = sum(self._told), sum(self._coefficients[:3])
        if told and abs(known - told) <= NEWS * told:
            return None
        self._told = (self._coefficients[0], self._coefficients[1], self._coefficients[2])
        return self.base_ms, self.per_sequence_ms, self.per_kv_token_ms

    def observe(self, load: Load, step_ms: float) -> None:
        """A step with this load took so long."""
        if step_ms < MIN_STEP_MS:
            return
        features = _features(load)
        expected = _dot(self._coefficients, features)
        if expected <= 0.0 or self._num_observed == 0 or self._has_changed(step_ms / expected):
            self._rescale(step_ms, expected)
            expected = step_ms
        self._num_observed += 1
        self._learn(features, min(max(step_ms, expected / OUTLIER), expected * OUTLIER))

    def _has_changed(self, ratio: float) -> bool:
        if 1 / OUTLIER <= ratio <= OUTLIER:
            self._num_surprises = 0
            return False
        self._num_surprises += 1
        return self._num_surprises >= SUSTAINED

    def _rescale(self, step_ms: float, expected: float) -> None:
        """Keep the proportions and forget the rest."""
        known = self._coefficients if expected > 0.0 else _PRIOR
        factor = step_ms / expected if expected > 0.0 else step_ms / sum(_PRIOR)
        self._coefficients = [value * factor for value in known]
        self._moments = [[0.0] * 4 for _ in range(4)]
        self._products = [0.0] * 4
        self._num_surprises = 0

    def _learn(self, features: tuple[float, ...], step_ms: float) -> None:
        scaled = [feature / step_ms for feature in features]
        for index, (row, feature) in enumerate(zip(self._moments, scaled, strict=True)):
            for other, value in enumerate(scaled):
                row[other] = FORGETTING * row[other] + feature * value
            self._products[index] = FORGETTING * self._products[index] + feature
        self._descend()

    def _descend(self) -> None:
        """One round a step is enough: the last solution is a good start."""
        coefficients = self._coefficients
        for index in (3, 2, 1, 0):
            row = self._moments[index]
            weight = row[index]
            if weight > 0.0:
                others = _dot(row, coefficients) - weight * coefficients[index]
                coefficients[index] = max((self._products[index] - others) / weight, 0.0)


def load_of(batch: ScheduledBatch) -> Load:
    keys = sum(rows.start + rows.length for rows in batch.sequences)
    prefill = sum(rows.length for rows in batch.sequences if rows.token_ids is not None)
    return Load(len(batch.sequences), keys - batch.plan.shared_keys, prefill)


def _features(load: Load) -> tuple[float, float, float, float]:
    return (
        1.0,
        load.sequences / _UNITS[1],
        load.kv_tokens / _UNITS[2],
        load.prefill_tokens / _UNITS[3],
    )


def _dot(a: list[float], b: tuple[float, ...] | list[float]) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]
