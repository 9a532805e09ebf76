"""Runs the generations of one request side by side.

Responsible for: handing every step of every generation to one sink, steps that come together in one call; and
for leaving all of them as soon as one fails, the sink fails, or the handler is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

from server.errors import ApiError
from server.generation import TextDelta

Generation = AbstractAsyncContextManager[AsyncIterator[TextDelta]]
Step = tuple[int, TextDelta]
Sink = Callable[[Sequence[Step]], Awaitable[None]]


async def run(generations: Sequence[Generation], sink: Sink) -> None:
    """Returns when every generation has ended. A step is the generation's index and its delta."""
    if len(generations) == 1:
        async with generations[0] as deltas:
            async for delta in deltas:
                await sink(((0, delta),))
        return
    try:
        await _run_many(generations, sink)
    except BaseExceptionGroup as group:
        raise _cause(group) from None


async def _run_many(generations: Sequence[Generation], sink: Sink) -> None:
    """The queue is short, so that a slow reader holds the generations' iterators back, not our memory."""
    queue: asyncio.Queue[Step | None] = asyncio.Queue(maxsize=2 * len(generations))
    running = len(generations)
    async with asyncio.TaskGroup() as group:
        for index, generation in enumerate(generations):
            group.create_task(_feed(queue, index, generation))
        while running:
            items = [await queue.get()]
            while not queue.empty():
                items.append(queue.get_nowait())
            running -= items.count(None)
            if steps := [item for item in items if item is not None]:
                await sink(steps)


async def _feed(queue: asyncio.Queue[Step | None], index: int, generation: Generation) -> None:
    async with generation as deltas:
        async for delta in deltas:
            await queue.put((index, delta))
    await queue.put(None)


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """One of several failures: the one that a client can be told, else the first."""
    leaves = [leaf for error in group.exceptions for leaf in _leaves(error)]
    return next((leaf for leaf in leaves if isinstance(leaf, ApiError)), leaves[0])


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
