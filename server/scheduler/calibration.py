"""How many tokens an engine may hold for its steps to be as short as somebody needs them.

Responsible for: capacity as a function of a limit per step, from what was measured of the engine: a linear model of
its step, or a table of measured capacities. Source: OSDI'24 "Parrot", sections 5.4 and 7 (figure 10): a step's time
grows with the tokens in it, so that the strictest limit bounds them. Leaves measuring to who calibrates.
"""

from __future__ import annotations

import msgspec


class StepModel(msgspec.Struct, frozen=True, tag=True):
    """t_step = a + b * sequences + c * kv_tokens, in milliseconds."""

    a: float
    b: float
    c: float

    def step_ms(self, num_sequences: int) -> float:
        """Of a step with short sequences."""
        return self.a + self.b * num_sequences

    def capacity(self, limit_ms: float, num_sequences: int) -> int | None:
        """KV tokens with which so many sequences keep the limit; 0: not even without. None: any number."""
        left = limit_ms - self.a - self.b * num_sequences
        if left < 0:
            return 0
        return int(left / self.c) if self.c > 0 else None


class CapacityTable(msgspec.Struct, frozen=True, tag=True):
    """`points`: (limit in ms, the largest measured number of tokens whose p90 step keeps it)."""

    points: tuple[tuple[float, int], ...]

    def step_ms(self, num_sequences: int) -> float:
        """Of the smallest load that was measured."""
        return min((limit for limit, _ in self.points), default=0.0)

    def capacity(self, limit_ms: float, num_sequences: int) -> int | None:
        """The measured loads have had so many sequences as they had; the number makes no difference here."""
        return max((tokens for limit, tokens in self.points if limit <= limit_ms), default=0)


Calibration = StepModel | CapacityTable
