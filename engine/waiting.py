"""The sequences that wait to run, smallest order first.

Responsible for: a heap in which leaving and moving are cheap, because an entry is void once its sequence has
a newer ticket. Leaves to others: why somebody waits, and who may go.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from engine.sequence import Order, Sequence, Status


class WaitingQueue:
    """Owns the heap and the `ticket` of every sequence in it."""

    def __init__(self) -> None:
        self._heap: list[tuple[Order, int, Sequence]] = []
        self._tickets = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Sequence]:
        """In no particular order."""
        return (sequence for _, ticket, sequence in self._heap if ticket == sequence.ticket)

    def push(self, sequence: Sequence) -> None:
        sequence.status = Status.WAITING
        self._enter(sequence)
        self._size += 1

    def moved(self, sequence: Sequence) -> None:
        """Its order has changed."""
        self._enter(sequence)

    def peek(self) -> Sequence | None:
        while self._heap and self._heap[0][1] != self._heap[0][2].ticket:
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def remove(self, sequence: Sequence) -> None:
        sequence.ticket = 0
        self._size -= 1

    def _enter(self, sequence: Sequence) -> None:
        self._tickets += 1
        sequence.ticket = self._tickets
        heapq.heappush(self._heap, (sequence.order, self._tickets, sequence))
        if len(self._heap) > 64 + 4 * self._size:
            self._heap = [entry for entry in self._heap if entry[1] == entry[2].ticket]
            heapq.heapify(self._heap)

    def check_invariants(self) -> None:
        members = list(self)
        assert len(members) == len(set(members)) == self._size
        assert all(sequence.status is Status.WAITING for sequence in members)
