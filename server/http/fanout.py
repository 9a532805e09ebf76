"""Runs the generations of one request side by side.

Responsible for: handing every step of every generation to one sink, and for leaving all of them as soon as one
fails, the sink fails, or the handler is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol

from server.errors import ApiError
from server.generation import TextDelta
from server.http.sinks import Sink


class Deltas(AsyncIterable[TextDelta], Protocol):
    """`server.scheduler.lives.Generation`, as far as it matters here."""

    def tap(self, tap: Callable[[TextDelta], bool]) -> None: ...


Generation = AbstractAsyncContextManager[Deltas]


async def run(generations: Sequence[Generation], sink: Sink) -> None:
    """Returns when every generation has ended."""
    turn = asyncio.Lock()
    if len(generations) == 1:
        return await _feed(sink, turn, 0, generations[0])
    try:
        async with asyncio.TaskGroup() as group:
            for index, generation in enumerate(generations):
                group.create_task(_feed(sink, turn, index, generation))
    except BaseExceptionGroup as group_of_errors:
        raise _cause(group_of_errors) from None


async def _feed(sink: Sink, turn: asyncio.Lock, index: int, generation: Generation) -> None:
    async with generation as deltas:
        deltas.tap(partial(sink.take, index))
        async for delta in deltas:
            async with turn:
                await sink.put(index, delta)


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """One of several failures: the one that a client can be told, else the first."""
    leaves = [leaf for error in group.exceptions for leaf in _leaves(error)]
    return next((leaf for leaf in leaves if isinstance(leaf, ApiError)), leaves[0])


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
