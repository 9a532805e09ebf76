from __future__ import annotations

import asyncio

import pytest

from server.errors import Gone
from server.http.live import LiveRequests
from server.tenant import ANONYMOUS, Tenant

OTHER = Tenant("other", b"")


async def endless(live: LiveRequests, started: asyncio.Event) -> None:
    async with live.tracked(ANONYMOUS, "r1"):
        started.set()
        await asyncio.Event().wait()


async def test_a_request_is_cancelled_by_its_id_and_only_by_its_tenant() -> None:
    live, started = LiveRequests(), asyncio.Event()
    task = asyncio.ensure_future(endless(live, started))
    await started.wait()
    assert not live.cancel(OTHER, "r1")
    assert not live.cancel(ANONYMOUS, "r2")
    assert live.cancel(ANONYMOUS, "r1")
    with pytest.raises(Gone):
        await task
    assert not live.cancel(ANONYMOUS, "r1")


async def test_a_client_that_leaves_is_an_ordinary_cancellation() -> None:
    live, started = LiveRequests(), asyncio.Event()
    task = asyncio.ensure_future(endless(live, started))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not live.cancel(ANONYMOUS, "r1")


async def test_a_cancel_that_comes_too_late_does_not_hit_what_follows() -> None:
    live = LiveRequests()

    async def quick() -> str:
        async with live.tracked(ANONYMOUS, "r1"):
            live.cancel(ANONYMOUS, "r1")
        return "unreachable"

    async def after() -> str:
        with pytest.raises(Gone):
            await quick()
        await asyncio.sleep(0)
        return "alive"

    assert await asyncio.ensure_future(after()) == "alive"


async def test_any_of_its_ids_cancels_a_request_once() -> None:
    live = LiveRequests()
    for id in ("r1", "resp_1"):
        started = asyncio.Event()

        async def endless_twice(started: asyncio.Event = started) -> None:
            async with live.tracked(ANONYMOUS, "resp_1", "r1"):
                started.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(endless_twice())
        await started.wait()
        assert live.cancel(ANONYMOUS, id)
        with pytest.raises(Gone):
            await task
        assert not task.cancelling()
        assert not live.cancel(ANONYMOUS, "r1")
        assert not live.cancel(ANONYMOUS, "resp_1")


def test_requests_are_counted_by_tenant_whatever_their_ids() -> None:
    live = LiveRequests()
    with live.counted(ANONYMOUS), live.counted(ANONYMOUS):
        assert (live.count(ANONYMOUS), live.count(OTHER)) == (2, 0)
    assert live.count(ANONYMOUS) == 0
