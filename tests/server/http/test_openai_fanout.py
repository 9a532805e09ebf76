from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
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
    ) -> AsyncIterator[AsyncIterator[TextDelta]]:
        self.open += 1
        self.entered += 1
        try:
            yield self._deltas(length, error, gate)
        finally:
            self.open -= 1

    async def _deltas(
        self, length: int, error: Exception | None, gate: asyncio.Event | None
    ) -> AsyncIterator[TextDelta]:
        for number in range(length):
            await asyncio.sleep(0)
            yield TextDelta(str(number), (number,))
        if gate is not None:
            await gate.wait()
        if error is not None:
            raise error


def collecting(seen: list[tuple[int, str]]) -> fanout.Sink:
    async def sink(steps: Sequence[fanout.Step]) -> None:
        seen.extend((index, delta.text) for index, delta in steps)

    return sink


@pytest.mark.parametrize("lengths", [[3], [0], [3, 0, 5], [50] * 20])
async def test_every_step_reaches_the_sink_in_its_generation_s_order(lengths: list[int]) -> None:
    source = Source()
    seen: list[tuple[int, str]] = []
    await fanout.run([source.generation(length) for length in lengths], collecting(seen))
    for index, length in enumerate(lengths):
        assert [text for at, text in seen if at == index] == [str(number) for number in range(length)]
    assert (source.open, source.entered) == (0, len(lengths))


@pytest.mark.parametrize("others", [0, 3])
async def test_one_failure_leaves_all_and_is_told(others: int) -> None:
    source = Source()
    forever = asyncio.Event()
    generations = [source.generation(1, EngineFailed("died"))]
    generations += [source.generation(1, gate=forever) for _ in range(others)]
    with pytest.raises(EngineFailed, match="died"):
        await fanout.run(generations, collecting([]))
    assert source.open == 0


@pytest.mark.parametrize("count", [1, 3])
async def test_a_sink_that_fails_leaves_all(count: int) -> None:
    async def gone(steps: Sequence[fanout.Step]) -> None:
        raise ConnectionResetError

    source = Source()
    with pytest.raises(ConnectionResetError):
        await fanout.run([source.generation(100) for _ in range(count)], gone)
    assert source.open == 0


@pytest.mark.parametrize("count", [1, 3])
async def test_cancelling_leaves_all(count: int) -> None:
    source, forever = Source(), asyncio.Event()
    first = asyncio.Event()

    async def sink(steps: Sequence[fanout.Step]) -> None:
        first.set()

    generations = [source.generation(1, gate=forever) for _ in range(count)]
    task = asyncio.ensure_future(fanout.run(generations, sink))
    await first.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.open == 0


async def test_an_error_for_the_client_wins_over_its_consequences() -> None:
    group = BaseExceptionGroup("x", [RuntimeError("a"), BaseExceptionGroup("y", [EngineFailed("told")])])
    assert isinstance(fanout._cause(group), ApiError)
