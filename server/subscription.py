"""Who waits for a session's variables and calls, and how they are woken.

A Subscription is a bell, not a queue: it remembers what has changed since its owner last looked, and whoever
wakes reads the state as it is then. So a slow reader gets its deltas merged, a late one gets the text so far as
one delta, and nothing grows beyond what is watched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Subscription:
    """One waiter's bell. To be waited for by one task."""

    __slots__ = ("_changed", "_rung")

    def __init__(self) -> None:
        self._changed: set[str] = set()
        self._rung = asyncio.Event()

    def ring(self, id: str) -> None:
        self._changed.add(id)
        self._rung.set()

    async def wait(self) -> set[str]:
        """The ids that have changed since the last call; returns as soon as there is one."""
        await self._rung.wait()
        self._rung.clear()
        changed, self._changed = self._changed, set()
        return changed


class Subscriptions:
    """All waiters of one session, by the ids of variables and calls that they wait for."""

    __slots__ = ("_by_id",)

    def __init__(self) -> None:
        self._by_id: dict[str, set[Subscription]] = {}

    @property
    def in_use(self) -> bool:
        return bool(self._by_id)

    @contextmanager
    def watch(self, ids: Iterable[str]) -> Iterator[Subscription]:
        subscription, watched = Subscription(), set(ids)
        for id in watched:
            self._by_id.setdefault(id, set()).add(subscription)
        try:
            yield subscription
        finally:
            for id in watched:
                self._by_id[id].discard(subscription)
                if not self._by_id[id]:
                    del self._by_id[id]

    def ring(self, ids: Iterable[str]) -> None:
        for id in ids:
            for subscription in self._by_id.get(id, ()):
                subscription.ring(id)

    def ring_all(self) -> None:
        self.ring(list(self._by_id))
