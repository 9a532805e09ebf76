"""Finished responses, kept for a while so that they can be asked for and continued.

Responsible for: whose they are, and how much of them is kept: the least recently used go first, those of the tenant
that has most when all of them together are too many. Pure: times come in. Nothing outlives the process.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

TTL_S = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class StoreBounds:
    """Bytes of JSON. `ttl_s`: seconds after the last use."""

    tenant_bytes: int = 16 * 2**20
    total_bytes: int = 64 * 2**20
    ttl_s: float = TTL_S


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """`answer` as it was told. `turns` are JSON lists of items: the conversation before it, its input, its output.
    `root`: the id of the conversation's first response. `events`: the frames of its stream, of one that ran in the
    background with a stream.

    What responses of one conversation have in common is held once and counted for each.
    """

    id: str
    root: str
    answer: bytes
    turns: tuple[bytes, ...]
    events: tuple[bytes, ...] = ()

    @property
    def size(self) -> int:
        return len(self.answer) + sum(map(len, self.turns)) + sum(map(len, self.events))


@dataclass(slots=True)
class _Shelf:
    """One tenant's, the least recently used first, each with the time of its last use."""

    kept: OrderedDict[str, tuple[StoredResponse, float]] = field(default_factory=OrderedDict)
    size: int = 0

    def pop(self, id: str) -> int:
        response, _ = self.kept.pop(id)
        self.size -= response.size
        return response.size

    def oldest(self) -> str:
        return next(iter(self.kept))


class ResponseStore:
    """Owns what is kept. A response is found under its tenant's id and its own, and nowhere else."""

    def __init__(self, bounds: StoreBounds | None = None) -> None:
        self.bounds = bounds or StoreBounds()
        self._shelves: dict[str, _Shelf] = {}
        self._size = 0

    def put(self, tenant: str, response: StoredResponse, now: float) -> None:
        """Keeps it, unless it alone is more than its tenant may have."""
        self._expire(now)
        self.remove(tenant, response.id)
        if response.size > min(self.bounds.tenant_bytes, self.bounds.total_bytes):
            return
        shelf = self._shelves.setdefault(tenant, _Shelf())
        shelf.kept[response.id] = (response, now)
        shelf.size += response.size
        self._size += response.size
        while shelf.size > self.bounds.tenant_bytes:
            self._drop(tenant, shelf.oldest())
        while self._size > self.bounds.total_bytes:
            self._drop(*self._dearest(response))

    def get(self, tenant: str, id: str, now: float) -> StoredResponse | None:
        self._expire(now)
        shelf = self._shelves.get(tenant)
        if shelf is None or id not in shelf.kept:
            return None
        response, _ = shelf.kept[id]
        shelf.kept[id] = (response, now)
        shelf.kept.move_to_end(id)
        return response

    def remove(self, tenant: str, id: str) -> bool:
        """Whether there was one."""
        shelf = self._shelves.get(tenant)
        if shelf is None or id not in shelf.kept:
            return False
        self._drop(tenant, id)
        return True

    def _dearest(self, new: StoredResponse) -> tuple[str, str]:
        """The oldest response of the tenant that has most, and not the one that has just come."""
        oldest = [(shelf.size, tenant, shelf.oldest()) for tenant, shelf in self._shelves.items()]
        _, tenant, id = max(found for found in oldest if self._shelves[found[1]].kept[found[2]][0] is not new)
        return tenant, id

    def _expire(self, now: float) -> None:
        for tenant, shelf in [*self._shelves.items()]:
            while shelf.kept and now - shelf.kept[shelf.oldest()][1] > self.bounds.ttl_s:
                self._drop(tenant, shelf.oldest())

    def _drop(self, tenant: str, id: str) -> None:
        shelf = self._shelves[tenant]
        self._size -= shelf.pop(id)
        if not shelf.kept:
            del self._shelves[tenant]

    def check_invariants(self) -> None:
        for shelf in self._shelves.values():
            assert shelf.kept
            assert shelf.size == sum(response.size for response, _ in shelf.kept.values())
            assert shelf.size <= self.bounds.tenant_bytes
            uses = [used for _, used in shelf.kept.values()]
            assert uses == sorted(uses)
        assert self._size == sum(shelf.size for shelf in self._shelves.values()) <= self.bounds.total_bytes
