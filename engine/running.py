"""The sequences that run, best first, and the slots they own.

Responsible for: that order, that a slot (a row of the runner's static tables) has one owner, and who would
give up its for another. Leaves to others: who runs.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort

from engine.sequence import Order, Sequence, Status
from engine.shares import Shares


class RunningSet:
    """Owns the order of the running sequences and their `slot`."""

    def __init__(self, num_slots: int) -> None:
        self._sequences: list[Sequence] = []
        self._free = list(range(num_slots))
        self._num_slots = num_slots

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def has_slot(self) -> bool:
        return bool(self._free)

    def in_order(self) -> list[Sequence]:
        """A copy: whoever walks it may preempt."""
        return self._sequences.copy()

    def worst(self, beside: Sequence | None = None) -> Sequence | None:
        for sequence in reversed(self._sequences):
            if sequence is not beside:
                return sequence
        return None

    def who_gives_way(self, sequence: Sequence, shares: Shares, *, pausing: bool) -> Sequence | None:
        """To one that waits. A less urgent class gives up slot and blocks. Within a class and a tenant a slot goes
        to who is earlier in the order and of an application that came before ("pausing"): not to a newcomer that
        is only shorter, or a stream would stutter as long as those come. The paused one's blocks stay in the tree,
        so it loses next to nothing."""
        worst = self.worst()
        if worst is None or worst.order[0] > sequence.order[0]:
            return worst
        if not pausing or self.has_slot:
            return None
        tenant = shares.name(sequence.tenant)
        for victim in reversed(self._sequences):
            if victim.order < sequence.order:
                return None
            if victim.application > sequence.application and shares.name(victim.tenant) == tenant:
                return victim
        return None

    def add(self, sequence: Sequence) -> None:
        """It takes the lowest free slot."""
        sequence.slot = heapq.heappop(self._free)
        insort(self._sequences, sequence, key=_order)

    def remove(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        del self._sequences[self._index(sequence)]
        heapq.heappush(self._free, sequence.slot)
        sequence.slot = None

    def reorder(self, sequence: Sequence, order: Order) -> None:
        del self._sequences[self._index(sequence)]
        sequence.order = order
        insort(self._sequences, sequence, key=_order)

    def _index(self, sequence: Sequence) -> int:
        return bisect_left(self._sequences, sequence.order, key=_order)

    def check_invariants(self) -> None:
        assert self._sequences == sorted(self._sequences, key=_order)
        assert all(sequence.status is Status.RUNNING for sequence in self._sequences)
        slots = [sequence.slot for sequence in self._sequences if sequence.slot is not None]
        assert sorted(slots + self._free) == list(range(self._num_slots))


def _order(sequence: Sequence) -> Order:
    return sequence.order
