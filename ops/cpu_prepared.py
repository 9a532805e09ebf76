"""Prepared attention steps, kept for as long as only positions move on.

In steady decoding the plan is one and the same from step to step, and every row sees one key more: one number in
its call's mask. All else of a prepared step changes when a row begins another KEY_STEP keys, and never in between,
so that preparing anew (a millisecond at 16 sequences, on the host) is left out for most steps.

Invariant: a step that was moved on is equal, number by number, to one that was prepared from the same plan.
"""

from __future__ import annotations

import numpy as np

from ops.cpu_attention import KEY_STEP, AttentionStep, Geometry
from ops.cpu_tiles import Int64Array, Plan, prepare


class PreparedSteps:
    """Owns the last step of each window, and changes the masks in it: a step holds until the next is asked for."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._last: dict[int | None, tuple[Plan, int, AttentionStep]] = {}

    def at(self, plan: Plan, padded_rows: int, window: int | None) -> AttentionStep:
        """As `ops.cpu_tiles.prepare`. A plan is the same as before when its tiles are the same object."""
        last = self._last.get(window)
        if last is not None and window is None:
            before, rows, step = last
            same = plan.tiles is before.tiles and rows == padded_rows
            if same and _one_more(before.positions, plan.positions) and step.see_one_more():
                self._last[window] = (plan, rows, step)
                return step
        step = prepare(plan, self._geometry, padded_rows, window)
        self._last[window] = (plan, padded_rows, step)
        return step


def _one_more(before: Int64Array, now: Int64Array) -> bool:
    """Whether every row has moved on by one, and none has begun another KEY_STEP keys."""
    return np.array_equal(before + 1, now) and bool((now % KEY_STEP).all())
