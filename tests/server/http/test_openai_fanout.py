from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from server.errors import ApiError, EngineFailed
from server.generation import TextDelta
from server.http import fanout


class Source:
    """Generations of given lengths; remembers which contexts are open."""

    def __init__(self) -> None:
        self.open = 0
        self.entered = 0

    @asynccontextmanager
    async def generation(
        self, length: int, error: Exception | None = None, gate: asyncio.Event | None = None
    ) -> AsyncIterator[Numbers]:
        self.open += 1
        self.entered += 1
        try:
            yield Numbers(length, error, gate)
        finally:
            self.open -= 1


class Numbers:
    """Counts; every other delta is offered to the tap first."""

    def __init__(self, length: int, error: Exception | None, gate: asyncio.Event | None) -> None:
        self._length = length
        self._error = error
        self._gate = gate
        self._tap: Callable[[TextDelta], bool] = lambda delta: False

    def tap(self, tap: Callable[[TextDelta], bool]) -> None:
        self._tap = tap

    async def __aiter__(self) -> AsyncIterator[TextDelta]:
        for number in range(self._length):
            await asyncio.sleep(0)
            delta = TextDelta(str(number), (number,))
            if number % 2 == 0 or not self._tap(delta):
                yield delta
        if self._gate is not None:
            await self._gate.wait()
        if self._error is not None:
            raise self._error


class Seen:
    """A sink that remembers; `taking`: at once, where it is offered."""

    def __init__(self, taking: bool = True) -> None:
        self.texts: dict[int, list[str]] = {}
        self.putting = 0
        self._taking = taking

    def take(self, index: int, delta: TextDelta) -> bool:
        if self._taking:
            self.texts.setdefault(index, []).append(delta.text)
        return self._taking

    async def put(self, index: int, delta: TextDelta) -> None:
        self.putting += 1
        assert self.putting == 1, "one at a time"
        await asyncio.sleep(0)
        self.texts.setdefault(index, []).append(delta.text)
        self.putting -= 1


@pytest.mark.parametrize("taking", [True, False])
@pytest.mark.parametrize("lengths", [[3], [0], [3, 0, 5], [50] * 20])
async def test_every_step_reaches_the_sink_in_its_generation_s_order(
    lengths: list[int], taking: bool
) -> None:
    source, seen = Source(), Seen(taking)
    await fanout.run([source.generation(length) for length in lengths], seen)
    for index, length in enumerate(lengths):
        assert seen.texts.get(index, []) == [str(number) for number in range(length)]
    assert (source.open, source.entered) == (0, len(lengths))


@pytest.mark.parametrize("others", [0, 3])
async def test_one_failure_leaves_all_and_is_told(others: int) -> None:
    source = Source()
    forever = asyncio.Event()
    generations = [source.generation(1, EngineFailed("died"))]
    generations += [source.generation(1, gate=forever) for _ in range(others)]
    with pytest.raises(EngineFailed, match="died"):
        await fanout.run(generations, Seen())
    assert source.open == 0


@pytest.mark.parametrize("count", [1, 3])
async def test_a_sink_that_fails_leaves_all(count: int) -> None:
    class Gone(Seen):
        async def put(self, index: int, delta: TextDelta) -> None:
            raise ConnectionResetError

    source = Source()
    with pytest.raises(ConnectionResetError):
        await fanout.run([source.generation(100) for _ in range(count)], Gone())
    assert source.open == 0


@pytest.mark.parametrize("count", [1, 3])
async def test_cancelling_leaves_all(count: int) -> None:
    source, forever = Source(), asyncio.Event()
    first = asyncio.Event()

    class First(Seen):
        async def put(self, index: int, delta: TextDelta) -> None:
            first.set()

    generations = [source.generation(1, gate=forever) for _ in range(count)]
    task = asyncio.ensure_future(fanout.run(generations, First()))
    await first.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.open == 0


async def test_an_error_for_the_client_wins_over_its_consequences() -> None:
    group = BaseExceptionGroup("x", [RuntimeError("a"), BaseExceptionGroup("y", [EngineFailed("told")])])
    assert isinstance(fanout._cause(group), ApiError)
