from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from bench.virtual_time import VirtualLoop


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    with loop.clock.running():
        yield loop
    loop.close()


def test_sleep_passes_at_once_and_in_order(loop: VirtualLoop) -> None:
    woken: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        woken.append(name)

    async def all_of_them() -> float:
        await asyncio.gather(sleeper("late", 3600.0), sleeper("soon", 1.0), sleeper("later", 60.0))
        return loop.time()

    begun = time.perf_counter()
    assert 3600.0 <= loop.run_until_complete(all_of_them()) < 3660.0
    assert time.perf_counter() - begun < 60.0
    assert woken == ["soon", "later", "late"]


def test_a_timeout_strikes_in_virtual_time(loop: VirtualLoop) -> None:
    async def too_slow() -> None:
        async with asyncio.timeout(10.0):
            await asyncio.sleep(1e6)

    with pytest.raises(TimeoutError):
        loop.run_until_complete(too_slow())


def test_what_waits_for_nothing_that_can_come_is_found_out(loop: VirtualLoop) -> None:
    async def deadlock() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="nothing is left to happen"):
        loop.run_until_complete(deadlock())


def test_work_takes_its_time_and_stopped_work_none(loop: VirtualLoop) -> None:
    def spin() -> float:
        begun = time.perf_counter()
        while time.perf_counter() - begun < 0.01:
            pass
        return time.perf_counter() - begun

    before = loop.time()
    spin()
    middle = loop.time()
    with loop.clock.stopped():
        spin()
        assert loop.time() == loop.time()
    assert middle - before >= 0.01
    assert loop.time() - middle < 0.01


def test_between_runs_no_time_passes() -> None:
    loop = VirtualLoop()
    before = loop.time()
    assert loop.time() == before
    loop.close()


def test_an_executor_runs_at_once(loop: VirtualLoop) -> None:
    async def work() -> int:
        return await asyncio.to_thread(lambda: 6 * 7)

    assert loop.run_until_complete(work()) == 42
