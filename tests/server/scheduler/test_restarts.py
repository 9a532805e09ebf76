"""When a dead engine is started again, and when an engine counts as hung."""

from __future__ import annotations

import asyncio
import time

from server.scheduler.restarts import MAX_DELAY_S, MAX_FAILURES, STEADY_S, Restarts
from server.scheduler.watchdog import Watchdog


def test_the_delay_doubles_with_each_death_without_progress_up_to_a_limit() -> None:
    restarts = Restarts()
    delays = [restarts.died(progressed=False, ready_s=0.0) for _ in range(12)]
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == MAX_DELAY_S


def test_an_engine_is_hopeless_after_so_many_deaths_in_a_row_and_not_once_it_has_worked_again() -> None:
    restarts = Restarts()
    for _ in range(MAX_FAILURES):
        assert not restarts.hopeless
        restarts.died(progressed=False, ready_s=0.0)
    assert restarts.hopeless
    assert restarts.died(progressed=True, ready_s=1.0) == 0.1
    assert not restarts.hopeless


def test_an_engine_that_was_up_for_long_without_work_has_not_failed() -> None:
    restarts = Restarts()
    for _ in range(20):
        restarts.died(progressed=False, ready_s=STEADY_S)
    assert not restarts.hopeless


async def test_a_watchdog_barks_when_there_is_work_and_nothing_was_heard() -> None:
    barked = asyncio.get_running_loop().create_future()
    watchdog = Watchdog(0.02, lambda: True, barked.set_result)
    watchdog.work_given()
    assert await asyncio.wait_for(barked, 5) >= 0.02
    watchdog.stop()


async def test_a_watchdog_that_is_fed_or_has_nothing_to_guard_is_quiet() -> None:
    loop = asyncio.get_running_loop()
    looked = asyncio.Event()

    def has_work() -> bool:
        looked.set()
        return False

    idle = Watchdog(0.01, has_work, lambda _: loop.stop())
    idle.work_given()
    await asyncio.wait_for(looked.wait(), 5)
    assert idle.silent_s == 0.0

    barked = loop.create_future()
    fed = Watchdog(0.05, lambda: True, barked.set_result)
    begun = loop.time()
    fed.work_given()
    for delay in (0.02, 0.04):
        loop.call_later(delay, fed.fed)
    await asyncio.wait_for(barked, 5)
    assert loop.time() - begun >= 0.09
    idle.stop()
    fed.stop()


async def test_a_watchdog_reads_what_has_come_during_a_stall_of_its_own_process() -> None:
    loop = asyncio.get_running_loop()
    barked: asyncio.Future[float] = loop.create_future()
    watchdog = Watchdog(0.02, lambda: True, barked.set_result)
    watchdog.work_given()
    time.sleep(0.05)  # noqa: ASYNC251 - the stall
    fed = loop.time()
    loop.call_later(0, watchdog.fed)  # the report that lay in the socket
    await asyncio.wait_for(barked, 5)
    assert loop.time() - fed >= 0.02
    watchdog.stop()
