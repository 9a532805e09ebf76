"""The events of one response, kept while it is made so that clients can follow it, leave and come back.

Responsible for: every follower being told each event once and in order, whenever it comes, and woken for new ones.
Leaves to others: what the events are, and what happens to them when the response has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from compat.blocks import TypedEvent
from server.http.sse import frame


class EventLog:
    """Owns the frames; the event with `sequence_number` n is frame n."""

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._ended = False
        self._news = asyncio.Event()

    @classmethod
    def of(cls, frames: Iterable[bytes]) -> EventLog:
        """One that has ended."""
        log = cls()
        log._frames += frames
        log.end()
        return log

    @property
    def frames(self) -> tuple[bytes, ...]:
        return tuple(self._frames)

    def add(self, events: Iterable[TypedEvent]) -> None:
        self._frames += (frame(event.data, event.name) for event in events)
        self._wake()

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._wake()

    async def follow(self, after: int) -> AsyncIterator[bytes]:
        """Frames, those that are there together, of the events behind number `after`; -1: all of them."""
        at = after + 1
        while True:
            if at < len(self._frames):
                new, at = self._frames[at:], len(self._frames)
                yield b"".join(new)
            elif self._ended:
                return
            else:
                await self._news.wait()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
