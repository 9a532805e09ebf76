"""The loop between the socket and the core, in one event loop with the server's end, so that turns count."""

from __future__ import annotations

import asyncio
import socket

import pytest
from msgspec.structs import replace

from engine import handover
from engine.core import EngineCore
from engine.ipc import FrameBuffer, FrameEncoder, decode_from_engine
from engine.loop import _run
from engine.types import Abort, Generate, SamplingParams, Shutdown, StepReport, ToEngine
from tests.engine.paged_runner import READY, PagedRunner

TURNS = 40
"""Of the event loop, until the server has understood that something has ended."""


class Server:
    """The other end. Keeps the ids of requests in the order of their first tokens."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._frames, self._buffer = FrameEncoder(), FrameBuffer()
        self.began: list[int] = []

    async def send(self, *messages: ToEngine) -> None:
        frames = b"".join([bytes(self._frames.encode(message)) for message in messages])
        await asyncio.get_running_loop().sock_sendall(self._connection, frames)

    async def until_end_of(self, request_id: int) -> None:
        while True:
            data = await asyncio.get_running_loop().sock_recv(self._connection, 65536)
            reports = [decode_from_engine(payload) for payload in self._buffer.feed(data)]
            steps = [report for report in reports if isinstance(report, StepReport)]
            deltas = [delta for step in steps for delta in step.deltas]
            self.began = list(dict.fromkeys((*self.began, *[delta.id for delta in deltas])))
            if any(delta.id == request_id and delta.finish_reason for delta in deltas):
                return


def a_request(request_id: int, *, key: int, followed: bool = False) -> Generate:
    sampling = SamplingParams(max_tokens=3, seed=request_id)
    return Generate(request_id, (1, 2, request_id), sampling, key=(key,), followed=followed)


async def in_turn(*, followed: bool, comes: ToEngine | None, disabled: frozenset[str]) -> list[int]:
    """Request 1 on the only slot, which 2 waits for; what `comes` after the end of 1 is before 2 in the queue."""
    ours, theirs = socket.socketpair()
    runner = PagedRunner(num_blocks=33, block_size=64, max_model_len=2048, vocab_size=100)
    core = EngineCore(runner, replace(READY, max_num_seqs=1), disabled | {"pausing"})
    with ours:
        engine, server = asyncio.create_task(_run(theirs, core)), Server(ours)
        await server.send(a_request(1, key=0, followed=followed), a_request(2, key=1))
        await server.until_end_of(1)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        if comes is not None:
            await server.send(comes)
        await server.until_end_of(2)
        if isinstance(comes, Generate) and comes.id not in server.began:
            await server.until_end_of(comes.id)
        await server.send(Shutdown())
        assert await engine == 0
    return server.began


@pytest.mark.parametrize(
    ("followed", "disabled", "began"),
    [
        (True, frozenset[str](), [1, 3, 2]),
        (False, frozenset[str](), [1, 2, 3]),
        (True, frozenset({"handover"}), [1, 2, 3]),
    ],
)
async def test_a_successor_takes_the_slot_of_what_has_ended(
    followed: bool, disabled: frozenset[str], began: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "LONGEST_S", 1.0)  # however busy this machine is
    assert await in_turn(followed=followed, comes=a_request(3, key=0), disabled=disabled) == began


@pytest.mark.parametrize("comes", [None, Abort(9)])
async def test_a_successor_that_does_not_come_is_not_waited_for_long(comes: ToEngine | None) -> None:
    assert await in_turn(followed=True, comes=comes, disabled=frozenset()) == [1, 2]
