"""The requests that are being answered, by id, so that another request can cancel them.

Responsible for: `POST /v1/requests/{id}/cancel` reaching the handler it names, and only of the same tenant. A
client that leaves needs none of this: its handler is cancelled with the connection.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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

    @asynccontextmanager
    async def tracked(self, tenant: Tenant, request_id: str) -> AsyncIterator[None]:
        """While open, the current task can be cancelled by id, and then this raises Gone."""
        task = asyncio.current_task()
        assert task is not None
        live = _Live(task)
        self._live[tenant.id, request_id].add(live)
        try:
            yield
            if live.cancelled:
                await asyncio.sleep(0)  # too late to stop it, but the cancellation must not hit what follows
        except asyncio.CancelledError:
            if live.cancelled and not task.uncancel():
                raise Gone("The request was cancelled.", code="request_cancelled") from None
            raise
        finally:
            found = self._live[tenant.id, request_id]
            found.discard(live)
            if not found:
                del self._live[tenant.id, request_id]

    def cancel(self, tenant: Tenant, request_id: str) -> bool:
        """Whether there was such a request."""
        found = self._live.get((tenant.id, request_id), set())
        for live in found:
            if not live.cancelled:
                live.cancelled = True
                live.task.cancel()
        return bool(found)
