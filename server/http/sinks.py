"""Where the steps of a request's generations go: into an answer, or to the client as they come.

Responsible for: which steps can be passed on in the call that read them from the engine, and which have to wait.
Leaves to others: what they look like (an encoder of `compat`), and the client's pace (`server.http.sse`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from server.generation import TextDelta
from server.http.sse import Stream

MANY_SCORES = 64
"""Positions with log-probabilities that are written on the event loop at once."""

Encode = Callable[[int, TextDelta], bytes]
"""The frames of one step: the index of its generation, and its delta."""


class Sink(Protocol):
    """Gets every step of every generation; those of one generation in order."""

    def take(self, index: int, delta: TextDelta) -> bool:
        """At once. False: it has to be `put`, and until it has been nothing else of its generation comes."""

    async def put(self, index: int, delta: TextDelta) -> None:
        """One at a time."""


class Collected:
    """Into an answer that is told when it is whole."""

    def __init__(self, collect: Callable[[int, TextDelta], None]) -> None:
        self._collect = collect

    def take(self, index: int, delta: TextDelta) -> bool:
        self._collect(index, delta)
        return True

    async def put(self, index: int, delta: TextDelta) -> None:
        self._collect(index, delta)


class Streamed:
    """To the client, at once while it keeps up."""

    def __init__(self, stream: Stream, encode: Encode) -> None:
        self._stream = stream
        self._encode = encode

    def take(self, index: int, delta: TextDelta) -> bool:
        if not self._stream.flows:
            return False
        self._stream.send(self._encode(index, delta))
        return True

    async def put(self, index: int, delta: TextDelta) -> None:
        await self._stream.write(self._encode(index, delta))


class Scored:
    """To the client, with prompts' log-probabilities: many are written on a thread, one after another."""

    def __init__(self, stream: Stream, encode: Encode) -> None:
        self._stream = stream
        self._encode = encode

    def take(self, index: int, delta: TextDelta) -> bool:
        return False

    async def put(self, index: int, delta: TextDelta) -> None:
        frames = await written(len(delta.prompt_logprobs), lambda: self._encode(index, delta))
        await self._stream.write(frames)


async def written(scores: int, write: Callable[[], bytes]) -> bytes:
    """On a thread where there are many log-probabilities to write: a thousand with alternatives take 50 ms."""
    return write() if scores < MANY_SCORES else await asyncio.to_thread(write)
