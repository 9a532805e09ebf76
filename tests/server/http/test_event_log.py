from __future__ import annotations

import asyncio

from compat.blocks import TypedEvent
from server.http.event_log import EventLog

A, B, C = (TypedEvent("e", name) for name in (b"a", b"b", b"c"))


async def read(log: EventLog, after: int) -> bytes:
    return b"".join([some async for some in log.follow(after)])


async def test_every_follower_is_told_all_that_it_has_not_seen_whenever_it_comes() -> None:
    log = EventLog()
    log.add([A])
    early, later = (asyncio.create_task(read(log, after)) for after in (-1, 1))
    await asyncio.sleep(0)
    log.add([B])
    await asyncio.sleep(0)
    log.add([C])
    log.end()
    assert await early == b"".join(log.frames)
    assert await later == b"event: e\ndata: c\n\n"
    assert await read(log, 0) == b"event: e\ndata: b\n\nevent: e\ndata: c\n\n"
    assert await read(log, 2) == await read(log, 99) == b""


async def test_one_of_the_past_is_read_like_any_other() -> None:
    assert await read(EventLog.of((b"x", b"y")), 0) == b"y"
