"""The loop of a loaded engine: frames in, steps, reports out.

Responsible for: awaiting the socket when there is nothing to do, stepping when there is, and stopping when
the server does not read its reports. Leaves to others: the steps (EngineCore), how long one waits for successors of
what has ended (`engine.handover`), the process around it (worker).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from typing import cast

from engine.core import EngineCore
from engine.ipc import FrameBuffer, FrameEncoder, FrameError, decode_to_engine
from engine.types import Failed, Generate, Shutdown, ToEngine

log = logging.getLogger(__name__)

WRITE_BUFFER = 2**20
"""Bytes of reports that the server has not read, beyond which the engine waits for it."""

FLUSH_S = 1.0


def run(connection: socket.socket, core: EngineCore) -> int:
    """Until EOF or Shutdown; the process's exit code."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(_run(connection, core))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(connection, core))


async def _run(connection: socket.socket, core: EngineCore) -> int:
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    _, server = await loop.create_connection(_Server, sock=connection)
    try:
        await _step_until_end(server, core)
    except FrameError as error:
        server.send_failure(f"the engine received a broken frame: {error}")
    except Exception as error:
        log.exception("the engine cannot go on")
        server.send_failure(f"the engine failed: {type(error).__name__}: {error}")
    await server.close()
    return 1 if server.failed else 0


async def _step_until_end(server: _Server, core: EngineCore) -> None:
    frames = FrameEncoder()
    while True:
        if not core.has_work:
            await server.wait_for_frames()
        messages = server.take()
        for message in messages:
            if isinstance(message, Shutdown):
                return
            core.take(message)
        if server.gone:
            return
        # Also when the messages left nothing to run: after an abort the server is told that the engine is free.
        if core.has_work or messages:
            server.write(frames.encode(core.step()))
        await server.drained()
        if wait_s := core.handover_s:
            await server.wait_for_successors(core.num_followed, wait_s)
        # Once is not enough: asyncio would run us again before it hands over what arrived during the step.
        await asyncio.sleep(0)
        await asyncio.sleep(0)


class _Server(asyncio.Protocol):
    """The server's end of the socket. Owns what has arrived and is not taken."""

    def __init__(self) -> None:
        self.gone = False
        self.failed = False
        self._arrived: list[ToEngine] = []
        self._broken: FrameError | None = None
        self._buffer = FrameBuffer()
        self._something = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's are no subclasses
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER)

    def data_received(self, data: bytes) -> None:
        try:
            self._arrived.extend(decode_to_engine(payload) for payload in self._buffer.feed(data))
        except FrameError as error:
            self._broken = error
        self._something.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, _: Exception | None) -> None:
        self.gone = True
        self._something.set()
        self._writable.set()
        if not self._lost.done():
            self._lost.set_result(None)

    async def wait_for_frames(self) -> None:
        if not (self.gone or self._arrived or self._broken):
            await self._something.wait()

    async def wait_for_successors(self, count: int, longest_s: float) -> None:
        """Until so many requests have arrived, or it has taken that long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                while not self.gone and sum(isinstance(each, Generate) for each in self._arrived) < count:
                    self._something.clear()
                    await self._something.wait()

    def take(self) -> list[ToEngine]:
        """What has arrived since. Raises FrameError if something was broken."""
        self._something.clear()
        if self._broken is not None:
            raise self._broken
        arrived, self._arrived = self._arrived, []
        return arrived

    def write(self, frame: bytes) -> None:
        if not self.gone:
            self._transport.write(frame)

    async def drained(self) -> None:
        """The server has read enough for another report."""
        await self._writable.wait()

    def send_failure(self, message: str) -> None:
        self.failed = True
        self.write(FrameEncoder().encode(Failed(message)))

    async def close(self) -> None:
        """Let what was written leave, for a while."""
        self._transport.close()
        await asyncio.wait([self._lost], timeout=FLUSH_S)
