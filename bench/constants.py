"""The machine's constants, measured by B0 and kept for the workloads that follow it.

Constants belong to a machine, a model and a number of cores; they are measured anew when they are older than half
a day, or when nobody has. `python -m bench b0` measures and keeps them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.bounds import Constants
from bench.stats import RESULTS

FRESH_S = 12 * 3600.0


class Point(msgspec.Struct, frozen=True):
    """`decode_ms`: a step's median; `p90_ms`: its 90th percentile; `prefill_ms`: for all tokens."""

    sequences: int
    context: int
    decode_ms: float
    p90_ms: float
    prefill_ms: float


class Calibrated(msgspec.Struct, frozen=True):
    """What B0 has found, and the points it was fitted to."""

    constants: Constants
    points: tuple[Point, ...]
    measured_at: float

    def capacity(self, target_ms: float) -> int:
        """Resident tokens of the largest measured load whose p90 step meets the target; 0: none does."""
        return max((p.sequences * p.context for p in self.points if p.p90_ms <= target_ms), default=0)

    def sequences(self, target_ms: float, context: int) -> int:
        """The most sequences of about that context whose p90 step meets the target; at least one."""
        near = min((p.context for p in self.points), key=lambda length: abs(length - context))
        kept = (p.sequences for p in self.points if p.context == near and p.p90_ms <= target_ms)
        return max(kept, default=1)


def kept(model: str, threads: int | None) -> Path:
    cores = "all" if threads is None else str(threads)
    return RESULTS / f"constants-{model}-{cores}.json"


def calibrated(model: str, measure: Callable[[], Calibrated], threads: int | None = None) -> Calibrated:
    """What is kept, if it is fresh; else what `measure` finds, which is kept."""
    path = kept(model, threads)
    if path.exists():
        found = msgspec.json.decode(path.read_bytes(), type=Calibrated)
        if 0 <= time.time() - found.measured_at < FRESH_S:
            return found
    return keep(model, measure(), threads)


def keep(model: str, found: Calibrated, threads: int | None = None) -> Calibrated:
    RESULTS.mkdir(exist_ok=True)
    kept(model, threads).write_bytes(msgspec.json.encode(found))
    return found
