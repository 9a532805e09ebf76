"""How a batch is laid out: the order of its sequences, and the plan that follows from it.

Responsible for: bringing sequences with common pages next to each other, and keeping order and plan from one
step to the next for as long as they hold: in steady decoding both change only when a sequence comes, goes or
begins a block. Leaves to others: who is in the batch (BatchScheduler), what a plan is (`engine.plan`).
"""

from __future__ import annotations

from engine.batch import AttentionPlan
from engine.plan import Rows, build_plan
from engine.sequence import Sequence


class BatchLayout:
    """Owns the last order and plan."""

    def __init__(self, block_size: int, *, share: bool) -> None:
        self._size = block_size
        self._share = share
        self._order: list[Sequence] = []
        self._plan: AttentionPlan | None = None
        self._members: set[Sequence] = set()

    def order(self, chosen: dict[Sequence, int]) -> list[Sequence]:
        """Sequences whose block tables begin alike are neighbours. The caller does not change the list."""
        if chosen.keys() != self._members:
            self._members = set(chosen)
            self._order = sorted(chosen, key=_blocks)
            self._plan = None
        return self._order

    def plan(self, chosen: dict[Sequence, int]) -> AttentionPlan:
        """For the last order; to be called before num_scheduled advances."""
        if self._plan is None:
            rows = [Rows(s.num_scheduled, chosen[s], s.blocks) for s in self._order]
            self._plan = build_plan(rows, self._size, self._share)
        return self._plan

    def moved(self) -> None:
        """A sequence changed its blocks for others, or has another number of rows than in the last step."""
        self._members = set()

    def grown(self) -> None:
        """A sequence has a block more."""
        self._plan = None


def _blocks(sequence: Sequence) -> list[int]:
    return sequence.blocks
