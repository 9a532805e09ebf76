"""The sequences that wait to run: the most urgent class first, in it the tenant that was served least, of it
the smallest order.

Responsible for: that choice, over a heap for each class and tenant in which leaving and moving are cheap,
because an entry is void once its sequence has a newer ticket. Leaves to others: why somebody waits, who may
go, and who was served how much (Shares).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from engine.sequence import Order, Sequence, Status
from engine.shares import Shares

Lane = tuple[int, bytes]
"""Urgency and tenant."""

Entry = tuple[Order, int, Sequence]
"""`order`, ticket."""


class WaitingQueue:
    """Owns the heaps and the `ticket` of every sequence in them."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._lanes: dict[Lane, list[Entry]] = {}
        self._tickets = 0
        self._size = 0
        self._num_entries = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Sequence]:
        """In no particular order."""
        return (entry[2] for lane in self._lanes.values() for entry in lane if _is_valid(entry))

    def push(self, sequence: Sequence) -> None:
        sequence.status = Status.WAITING
        self._enter(sequence)
        self._size += 1

    def moved(self, sequence: Sequence) -> None:
        """Its order has changed."""
        self._enter(sequence)

    def peek(self) -> Sequence | None:
        best: tuple[int, int, Order] | None = None
        found: Sequence | None = None
        for lane in list(self._lanes):
            sequence = self._first(lane)
            if sequence is None:
                continue
            rank = (lane[0], self._shares.served(lane[1]), sequence.order)
            if best is None or rank < best:
                best, found = rank, sequence
        return found

    def remove(self, sequence: Sequence) -> None:
        sequence.ticket = 0
        self._size -= 1

    def _first(self, lane: Lane) -> Sequence | None:
        """Of one lane; an empty one goes."""
        heap = self._lanes[lane]
        while heap and not _is_valid(heap[0]):
            heapq.heappop(heap)
            self._num_entries -= 1
        if heap:
            return heap[0][2]
        del self._lanes[lane]
        return None

    def _enter(self, sequence: Sequence) -> None:
        self._tickets += 1
        sequence.ticket = self._tickets
        lane = (sequence.order[0], self._shares.name(sequence.tenant))
        heapq.heappush(self._lanes.setdefault(lane, []), (sequence.order, self._tickets, sequence))
        self._num_entries += 1
        if self._num_entries > 64 + 4 * self._size:
            self._drop_void_entries()

    def _drop_void_entries(self) -> None:
        lanes = {lane: [entry for entry in heap if _is_valid(entry)] for lane, heap in self._lanes.items()}
        self._lanes = {lane: heap for lane, heap in lanes.items() if heap}
        for heap in self._lanes.values():
            heapq.heapify(heap)
        self._num_entries = sum(map(len, self._lanes.values()))

    def check_invariants(self) -> None:
        members = list(self)
        assert len(members) == len(set(members)) == self._size
        assert all(sequence.status is Status.WAITING for sequence in members)
        assert self._num_entries == sum(map(len, self._lanes.values()))
        for (urgency, tenant), heap in self._lanes.items():
            for entry in filter(_is_valid, heap):
                assert entry[2].order == entry[0]
                assert (entry[0][0], self._shares.name(entry[2].tenant)) == (urgency, tenant)


def _is_valid(entry: Entry) -> bool:
    return entry[1] == entry[2].ticket
