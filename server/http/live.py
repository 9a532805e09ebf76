"""The requests that are being answered, by id, so that another request can cancel them.

Responsible for: `POST /v1/requests/{id}/cancel` reaching the handler it names, and only of the same tenant. A
client that leaves needs none of this: its handler is cancelled with the connection.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from server.errors import Gone
from server.tenant import Tenant


@dataclass(slots=True, eq=False)
class _Live:
    task: asyncio.Task[object]
    cancelled: bool = False


class LiveRequests:
    """Owns the table. Two requests of one tenant may share an id; a cancel is for all of them."""

    def __init__(self) -> None:
        self._live: defaultdict[tuple[str, str], set[_Live]] = defaultdict(set)
        self._counts: Counter[str] = Counter()

    def count(self, tenant: Tenant) -> int:
        """How many of this tenant are open as `counted`, whatever ids it gave them."""
        return self._counts[tenant.id]

    @contextmanager
    def counted(self, tenant: Tenant) -> Iterator[None]:
        self._counts[tenant.id] += 1
        try:
            yield
        finally:
            self._counts[tenant.id] -= 1
            if not self._counts[tenant.id]:
                del self._counts[tenant.id]

    @asynccontextmanager
    async def tracked(self, tenant: Tenant, *ids: str) -> AsyncIterator[None]:
        """While open, the current task can be cancelled by any of `ids`, and then this raises Gone."""
        task = asyncio.current_task()
        assert task is not None
        live = _Live(task)
        for id in ids:
            self._live[tenant.id, id].add(live)
        try:
            yield
            if live.cancelled:
                await asyncio.sleep(0)  # too late to stop it, but the cancellation must not hit what follows
        except asyncio.CancelledError:
            if live.cancelled and not task.uncancel():
                raise Gone("The request was cancelled.", code="request_cancelled") from None
            raise
        finally:
            for id in ids:
                self._leave((tenant.id, id), live)

    def cancel(self, tenant: Tenant, request_id: str) -> bool:
        """Whether there was such a request."""
        found = self._live.get((tenant.id, request_id), set())
        for live in found:
            if not live.cancelled:
                live.cancelled = True
                live.task.cancel()
        return bool(found)

    def _leave(self, key: tuple[str, str], live: _Live) -> None:
        found = self._live[key]
        found.discard(live)
        if not found:
            del self._live[key]
