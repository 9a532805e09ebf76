"""A tenant's responses by id, while they are made and afterwards.

Responsible for: what a response has become when it ends in whatever way, that it is kept when its client wants
that, and the tasks of those that run without a client. Leaves to others: the generation, and how much is kept.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from compat.openai.encoder import Delta
from compat.openai.responses_encoder import ResponseEncoder
from server.errors import ApiError, NotFound
from server.http.event_log import EventLog
from server.http.responses_store import ResponseStore, StoredResponse
from server.tenant import Tenant

log = logging.getLogger(__name__)

CANCELLED = "The response was cancelled."


@dataclass(slots=True, eq=False)
class Draft:
    """A response in the making. `turns`: the conversation before its output, which began with the response `root`;
    `kept`: it can be asked for by id. `log`: where it is streamed from, when it is made without a client."""

    encoder: ResponseEncoder
    root: str
    turns: tuple[bytes, ...]
    kept: bool
    log: EventLog | None = None

    @property
    def id(self) -> str:
        return self.encoder.head.id

    def begin(self) -> None:
        if self.log is not None:
            self.log.add(self.encoder.begin())

    def feed(self, delta: Delta) -> None:
        if self.log is None:
            self.encoder.collect(delta)
        else:
            self.log.add(self.encoder.feed(delta))

    def end(self) -> None:
        events = self.encoder.end(int(time.time()))
        if self.log is not None:
            self.log.add(events)


class LiveResponses:
    """Owns the drafts, the store and the tasks in the background."""

    def __init__(self) -> None:
        self._drafts: dict[tuple[str, str], Draft] = {}
        self._store = ResponseStore()
        self._tasks: set[asyncio.Task[None]] = set()

    @contextmanager
    def making(self, owner: Tenant, draft: Draft) -> Iterator[None]:
        """While open, it is in the making. One whose client has left is nobody's, and is not kept."""
        key = owner.id, draft.id
        self._drafts[key] = draft
        try:
            yield
        except ConnectionResetError:
            raise
        except Exception as error:
            _fail(draft.encoder, error)
            draft.end()
            self._keep(owner, draft)
            raise
        else:
            self._keep(owner, draft)
        finally:
            del self._drafts[key]
            if draft.log is not None:
                draft.log.end()

    def find(self, owner: Tenant, id: str, param: str = "response_id") -> Draft | StoredResponse:
        """Raises NotFound."""
        draft = self._drafts.get((owner.id, id))
        if draft is not None and draft.kept:
            return draft
        stored = self._store.get(owner.id, id, time.monotonic())
        if stored is None:
            raise NotFound(f"There is no response {id[:140]!r}.", param=param)
        return stored

    def forget(self, owner: Tenant, id: str) -> Draft | StoredResponse:
        """It cannot be asked for any more. Raises NotFound."""
        found = self.find(owner, id)
        if isinstance(found, Draft):
            found.kept = False
        else:
            self._store.remove(owner.id, id)
        return found

    async def start(self, work: Coroutine[None, None, None]) -> None:
        """Goes on without a client. Returns when it has begun."""
        task = asyncio.create_task(_unattended(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.sleep(0)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _keep(self, owner: Tenant, draft: Draft) -> None:
        if draft.kept:
            turns = (*draft.turns, draft.encoder.turn())
            events = () if draft.log is None else draft.log.frames
            stored = StoredResponse(draft.id, draft.root, draft.encoder.answer(), turns, events)
            self._store.put(owner.id, stored, time.monotonic())


async def _unattended(work: Coroutine[None, None, None]) -> None:
    """There is nobody to be told but who asks for the response, and that says what went wrong."""
    try:
        await work
    except ApiError:
        pass
    except Exception:
        log.exception("a response in the background failed")


def _fail(encoder: ResponseEncoder, error: Exception) -> None:
    if not isinstance(error, ApiError):
        encoder.fail("Internal server error.", "server_error")
    elif error.info.code == "request_cancelled":
        encoder.fail(CANCELLED, "server_error", cancelled=True)
    elif error.status == 429:
        encoder.fail(error.info.message, "rate_limit_exceeded")
    else:
        encoder.fail(error.info.message, "invalid_prompt" if error.status < 500 else "server_error")
