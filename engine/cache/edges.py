"""Edges of the radix tree: the tokens of one block together with the salts they lie under.

Responsible for: what makes two edges equal, and finding the edge that shares most with another. An edge is
`(salt, token, token, ...)`: the salt of its first token, then its tokens. Where the salt changes inside the
block, the tokens after the change carry theirs, so that

    equal edges = equal tokens and equal salts, token by token; a common prefix of edges = shareable tokens.

Tuples are compared, never only their hashes. Leaves to others: what hangs on an edge.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from engine.types import Salt

Edge = tuple[bytes | int, ...]
V = TypeVar("V")


def edge(tokens: Sequence[int], start: int, end: int, salts: tuple[Salt, ...]) -> Edge:
    """The edge of tokens[start:end]. `salts` ascend in start; before the first one the salt is empty."""
    value = b""
    for salt in salts:
        if salt.start <= start:
            value = salt.value
        elif salt.start < end:
            return _mixed_edge(tokens, start, end, salts, value)
        else:
            break
    return (value, *tokens[start:end])


def _mixed_edge(tokens: Sequence[int], start: int, end: int, salts: tuple[Salt, ...], first: bytes) -> Edge:
    parts: list[bytes | int] = [first]
    for at, until, value in _runs(start, end, salts):
        if value == first:
            parts.extend(tokens[at:until])
        else:  # exact, not a hash: the salt's bytes above the token's 32 bits, a leading 1 for their length
            mark = int.from_bytes(b"\x01" + value, "big") << 32
            parts.extend(mark | token for token in tokens[at:until])
    return tuple(parts)


def _runs(start: int, end: int, salts: tuple[Salt, ...]) -> Iterator[tuple[int, int, bytes]]:
    """(from, until, salt) over start..end."""
    value, at = b"", start
    for salt in salts:
        if salt.start >= end:
            break
        if salt.start > at:
            yield at, salt.start, value
            at = salt.start
        value = salt.value
    yield at, end, value


def common_length(a: Sequence[object], b: Sequence[object], limit: int) -> int:
    """How many leading elements are equal, at most `limit`; compares slices, halving on a difference."""
    low, high = 0, min(len(a), len(b), limit)
    if a[:high] == b[:high]:
        return high
    while high - low > 1:  # a[:low] == b[:low], and a[low:high] != b[low:high]
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def common_salted_length(
    a: Sequence[int], a_salts: tuple[Salt, ...], b: Sequence[int], b_salts: tuple[Salt, ...], limit: int
) -> int:
    """How many leading tokens are equal and lie under equal salts, at most `limit`."""
    length = common_length(a, b, limit)
    if a_salts == b_salts:
        return length
    points = {0, *(salt.start for salt in a_salts), *(salt.start for salt in b_salts)}
    for point in sorted(points):
        if point < length and salt_at(point, a_salts) != salt_at(point, b_salts):
            return point
    return length


def salt_at(position: int, salts: tuple[Salt, ...]) -> bytes:
    value = b""
    for salt in salts:
        if salt.start > position:
            break
        value = salt.value
    return value


class Edges(Generic[V]):
    """A map from edges that also knows their order, so that the closest edge is found by bisection."""

    __slots__ = ("_order", "_values")

    def __init__(self) -> None:
        self._values: dict[Edge, V] = {}
        self._order: list[Edge] = []

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Edge]:
        return iter(self._order)

    def values(self) -> Iterator[V]:
        return iter(self._values.values())

    def get(self, key: Edge) -> V | None:
        return self._values.get(key)

    def add(self, key: Edge, value: V) -> None:
        if key in self._values:
            raise ValueError("the edge exists")
        self._values[key] = value
        self._order.insert(bisect_left(self._order, key), key)

    def remove(self, key: Edge) -> None:
        del self._values[key]
        del self._order[bisect_left(self._order, key)]

    def neighbours(self, key: Edge) -> tuple[V | None, V | None]:
        """The values just before and at or after `key`. In a prefix-free map the first is the only one that
        `key` may extend, the second the only one that may extend `key`."""
        at = bisect_left(self._order, key)
        before = self._values[self._order[at - 1]] if at else None
        after = self._values[self._order[at]] if at < len(self._order) else None
        return before, after

    def closest(self, key: Edge) -> tuple[V, int] | None:
        """The value whose edge has most leading tokens in common with `key`, and how many; None: not one."""
        at = bisect_left(self._order, key)
        best: tuple[V, int] | None = None
        for other in self._order[max(at - 1, 0) : at + 1]:
            shared = common_length(key, other, len(key)) - 1  # the salt is no token
            if shared > (best[1] if best else 0):
                best = (self._values[other], shared)
        return best
