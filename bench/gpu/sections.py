"""The sections of the kit in the order in which they run, and what each of them is given.

Responsible for: names, time budgets, and the module that holds a section: it has `run(bench)`. Budgets are for one
data-centre GPU and sum to less than the kit's limit of eight minutes; a section asks `bench.time_for` before each
of its points, so that one that runs out of time ends with what it has.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.gpu.report import Report

if TYPE_CHECKING:
    from bench.gpu.engines import Engines
    from bench.gpu.machine import Machine
    from bench.gpu.shapes import ModelShape


@dataclass(frozen=True, slots=True)
class Section:
    """budget_s: seconds for the whole section on a GPU."""

    module: str
    text: str
    budget_s: float


SECTIONS = {
    "gates": Section("bench.gpu.gates", "the kernels' tests, in bf16", 90),
    "kernels": Section(
        "bench.gpu.kernels", "attention, row-wise kernels and sampling beside their floors", 50
    ),
    "steps": Section("bench.gpu.steps", "time of a step beside its floor", 80),
    "serving": Section(
        "bench.gpu.serving", "B14: single stream, 16 at once, a shared prefix, a long prompt", 55
    ),
    "copilot": Section("bench.gpu.copilot", "B6, B7: many users of one long prompt", 65),
    "throughput": Section("bench.gpu.throughput", "256 sequences, and the same on transformers", 60),
    "deterministic": Section("bench.gpu.deterministic", "the same bits in any batch, and what they cost", 30),
    "tuning": Section("bench.gpu.tuning", "the best of the committed configurations", 25),
}


def budget(names: Sequence[str], left_s: float, small: bool) -> float:
    """Seconds for the first of `names`, in order. On a GPU what the others will not need is its own too, so that
    `--only` one section gives it the whole limit."""
    if small:
        return min(SMALL_S, left_s)
    others = sum(SECTIONS[name].budget_s for name in names[1:])
    return min(left_s, max(SECTIONS[names[0]].budget_s, left_s - others))


SMALL_S = 120.0
"""Of any section in small. All of them together take a quarter of that on two cores that are free."""

GRACE_S = 20.0
"""A section that does not end so long after its budget is ended by force, and the next one runs."""


class SkipSection(Exception):
    """This section does not apply here; the message says why."""


@dataclass(slots=True)
class Bench:
    """What a section works with. Engines are loaded once and shared by the sections of a worker."""

    report: Report
    machine: Machine
    engines: Engines
    small: bool
    deadline: float

    def room_for(self, shape: ModelShape) -> bool:
        """Whether the device holds a model of this shape; one that it does not is noted."""
        if self.engines.fits(shape):
            return True
        self.report.note(f"left out for lack of memory: {shape.name}")
        return False

    def time_for(self, label: str, seconds: float = 0.0) -> bool:
        """Whether the budget allows another point of about so many seconds; a point left out is noted."""
        if time.monotonic() + seconds < self.deadline:
            return True
        self.report.note(f"left out for lack of time: {label}")
        return False
