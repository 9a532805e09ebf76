"""The tasks that have no place yet, in the order of their keys.

Responsible for: that order, who waits together with whom (the members of a group, those with a common prefix), and
how much waits. O(log n) comparisons and O(boundaries) a change.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from engine.types import Key
from server.scheduler.entry import Entry, Group
from server.scheduler.events import TaskSpec
from server.scheduler.residency import footprint


@dataclass(slots=True)
class Sharing:
    """Tasks with a prefix in common: how many, and all their tokens behind it."""

    count: int = 0
    tokens: int = 0


class TaskQueue:
    """Owns the order. An entry must not change its key, group or prefixes while it is here."""

    def __init__(self) -> None:
        self._order: list[
            tuple[Key, Entry]
        ] = []  # the key negated: the first is at the end, where popping is cheap
        self._groups: dict[Group, dict[int, Entry]] = {}
        self._sharing: dict[bytes, Sharing] = {}
        self.num_tokens = 0

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Entry]:
        return (entry for _, entry in reversed(self._order))

    def at(self, index: int) -> Entry | None:
        """0 is the first. None when there are not so many."""
        return self._order[-1 - index][1] if index < len(self._order) else None

    def add(self, entry: Entry) -> None:
        insort(self._order, (_negated(entry.key), entry), key=_key)
        self.num_tokens += entry.spec.num_tokens
        if entry.group is not None:
            self._groups.setdefault(entry.group, {})[entry.id] = entry
        for hash, tokens in _boundaries(entry.spec):
            sharing = self._sharing.setdefault(hash, Sharing())
            sharing.count += 1
            sharing.tokens += footprint(entry.spec) - tokens

    def remove(self, entry: Entry) -> None:
        index = bisect_left(self._order, _negated(entry.key), key=_key)
        assert self._order[index][1] is entry
        del self._order[index]
        self.num_tokens -= entry.spec.num_tokens
        if entry.group is not None:
            members = self._groups[entry.group]
            del members[entry.id]
            if not members:
                del self._groups[entry.group]
        for hash, tokens in _boundaries(entry.spec):
            sharing = self._sharing[hash]
            sharing.count -= 1
            sharing.tokens -= footprint(entry.spec) - tokens
            if not sharing.count:
                del self._sharing[hash]

    def members(self, group: Group) -> list[Entry]:
        """In order."""
        return sorted(self._groups.get(group, {}).values(), key=lambda entry: entry.key)

    def sharers(self, spec: TaskSpec) -> Sharing:
        """The others that share the longest prefix which `spec`, queued itself, shares with anybody."""
        for hash, tokens in reversed(list(_boundaries(spec))):
            sharing = self._sharing[hash]
            if sharing.count > 1:
                return Sharing(sharing.count - 1, sharing.tokens - (footprint(spec) - tokens))
        return Sharing()

    def check_invariants(self, queued: Iterable[Entry]) -> None:
        """`queued`: what should be here."""
        entries = [entry for _, entry in self._order]
        assert {entry.id for entry in entries} == {entry.id for entry in queued}
        assert [key for key, _ in self._order] == sorted(_negated(entry.key) for entry in entries)
        assert self.num_tokens == sum(entry.spec.num_tokens for entry in entries)
        grouped = {(entry.group, entry.id) for entry in entries if entry.group is not None}
        assert grouped == {(group, id) for group, members in self._groups.items() for id in members}
        again = TaskQueue()
        for entry in entries:
            again.add(entry)
        assert again._sharing == self._sharing


def _boundaries(spec: TaskSpec) -> Iterator[tuple[bytes, int]]:
    return zip(spec.prefix_hashes, spec.prefix_tokens, strict=True)


def _key(item: tuple[Key, Entry]) -> Key:
    return item[0]


def _negated(key: Key) -> Key:
    return tuple(-part for part in key)
