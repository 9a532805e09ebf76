"""The server's end of an engine: the only seam through which an engine is reached.

Responsible for: the engine's process (started by `engine.launch`, ended by EOF, `close()` or a kill), and for
handing each delta of a report to its reader. Every request ends: with its last delta, because its reader has left
it, or with its engine. Leaves to others: which engine and what order, restarts.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Protocol, cast

from engine.config import EngineConfig
from engine.ipc import FrameBuffer, FrameEncoder, FrameError, decode_from_engine
from engine.launch import launch
from engine.types import (
    Abort,
    Failed,
    FromEngine,
    Generate,
    Hint,
    Key,
    Loading,
    Objective,
    Ready,
    Reprioritise,
    Shutdown,
    StepReport,
    ToEngine,
    TokenDelta,
    Warm,
)

REAP_S = 5.0
"""How long a process whose socket is closed may take to end before it is killed."""


class EngineDied(Exception):
    """The engine process is gone, or never came up; the message says why."""


class Reader(Protocol):
    """Who gets a request's deltas, on the event loop, in the call that has read them from the socket.

    So it neither waits nor raises: others are read for in the same call.
    """

    def push(self, delta: TokenDelta) -> None:
        """What has come since the last one. Nothing follows one with a finish_reason."""

    def lose(self, message: str) -> None:
        """The engine died, and this is why: nothing more will come."""


class EngineClient(asyncio.Protocol):
    """One engine process. Made by `start`; owns the process, the socket and the requests that it works on.

    `on_report` and `on_loading` are called on the event loop, once per frame.
    """

    def __init__(
        self,
        on_report: Callable[[StepReport], None] | None,
        on_loading: Callable[[Loading], None] | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._on_report = on_report
        self._on_loading = on_loading
        self._ready: asyncio.Future[Ready] = loop.create_future()
        self._ended: asyncio.Future[str] = loop.create_future()
        self._writable = asyncio.Event()
        self._writable.set()
        self._readers: dict[int, Reader] = {}
        self._opening = 0
        self._buffer = FrameBuffer()
        self._frames = FrameEncoder()
        self._failure: str | None = None
        self._closing = False
        self._lost = asyncio.Event()

    @classmethod
    async def start(
        cls,
        config: EngineConfig,
        *,
        on_report: Callable[[StepReport], None] | None = None,
        on_loading: Callable[[Loading], None] | None = None,
    ) -> EngineClient:
        """Spawn the process and send it its configuration. Loading goes on: await `ready`."""
        client = cls(on_report, on_loading)
        connection, client._process = launch(config)
        await asyncio.get_running_loop().create_connection(lambda: client, sock=connection)
        client._send(config)
        client._reaper = asyncio.create_task(client._reap(), name=f"engine {client.pid}")
        return client

    _process: subprocess.Popen[bytes]
    _transport: asyncio.Transport
    _reaper: asyncio.Task[None]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._failure is None

    @property
    def num_open(self) -> int:
        """Requests that have begun, or wait for the engine to read, and have neither ended nor been left."""
        return len(self._readers) + self._opening

    @property
    def ready(self) -> asyncio.Future[Ready]:
        """Awaitable, any number of times. Raises EngineDied if the engine cannot come up."""
        return asyncio.shield(self._ready)

    @property
    def ended(self) -> asyncio.Future[str]:
        """Awaitable: the process is gone; why."""
        return asyncio.shield(self._ended)

    async def open(self, request: Generate, reader: Reader) -> None:
        """Begin; to be left, whatever comes. `request.id` is unique among this engine's live requests.

        Raises EngineDied.
        """
        self._opening += 1
        try:
            while self._failure is None and not self._writable.is_set():
                await self._writable.wait()
        finally:
            self._opening -= 1
        if self._failure is not None:
            raise EngineDied(self._failure)
        if request.id in self._readers:
            raise ValueError(f"request {request.id} is already running")
        self._readers[request.id] = reader
        self._send(request)

    def leave(self, request_id: int) -> None:
        """Its reader gets nothing more; what has not ended is aborted."""
        if self._readers.pop(request_id, None) is not None:
            self._send(Abort(request_id))

    def warm(self, request: Warm) -> None:
        """Prefill ids into the cache. The report that says it is done goes to `on_report` only."""
        self._send(request)

    def reprioritise(self, request_id: int, objective: Objective, key: Key) -> None:
        self._send(Reprioritise(request_id, objective, key))

    def hint(self, request: Hint) -> None:
        self._send(request)

    def abort(self, request_id: int) -> None:
        """Of a Warm."""
        self._send(Abort(request_id))

    def kill(self, why: str) -> None:
        """At once, also when it hangs or is stopped; those who wait are told `why`."""
        self._failure = self._failure or why
        with suppress(ProcessLookupError):
            self._process.kill()

    async def close(self, grace_s: float = 5.0) -> None:
        """End the process: after its step, or by a kill when that takes longer. Idempotent."""
        if not self._closing:
            self._closing = True
            self._send(Shutdown())
        await asyncio.wait([self._reaper], timeout=grace_s)
        if not self._reaper.done():
            with suppress(ProcessLookupError):
                self._process.kill()
            await asyncio.wait([self._reaper])

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses

    def data_received(self, data: bytes) -> None:
        try:
            messages = [decode_from_engine(payload) for payload in self._buffer.feed(data)]
        except FrameError as error:
            self._failure = f"the engine sent a broken frame: {error}"
            self._transport.abort()
            return
        for message in messages:
            self._received(message)
        self._deliver([message.deltas for message in messages if isinstance(message, StepReport)])

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, _: Exception | None) -> None:
        self._writable.set()
        self._lost.set()

    def _received(self, message: FromEngine) -> None:
        match message:
            case StepReport():
                if self._on_report is not None:
                    self._on_report(message)
            case Loading():
                if self._on_loading is not None:
                    self._on_loading(message)
            case Ready():
                self._ready.set_result(message)
            case Failed():
                self._failure = message.message

    def _deliver(self, steps: Sequence[Sequence[TokenDelta]]) -> None:
        """What came of several steps at once is one delta of a request: so a server that is behind catches up."""
        readers = self._readers
        for delta in steps[0] if len(steps) == 1 else _merged(steps):
            reader = readers.get(delta.id)
            if reader is not None:
                if delta.finish_reason is not None:
                    del readers[delta.id]
                reader.push(delta)

    def _send(self, message: ToEngine | EngineConfig) -> None:
        """Nothing happens when the engine is gone: those who wait for it are told."""
        if not self._transport.is_closing():
            self._transport.write(self._frames.encode(message))

    async def _reap(self) -> None:
        """Once the socket is closed: see the process end, then tell everybody who waits."""
        await self._lost.wait()
        try:
            status = await asyncio.to_thread(self._process.wait, REAP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = await asyncio.to_thread(self._process.wait)
        self._failure = self._failure or _cause(status, closed=self._closing)
        if not self._ready.done():
            self._ready.set_exception(EngineDied(self._failure))
            self._ready.exception()  # nobody need ask
        readers, self._readers = self._readers, {}
        for reader in readers.values():
            reader.lose(self._failure)
        self._ended.set_result(self._failure)


def _cause(status: int, *, closed: bool) -> str:
    if closed:
        return "the engine was closed"
    if status < 0:
        return f"the engine process was killed by {_signal_name(-status)}"
    return f"the engine process ended with status {status}"


def _signal_name(number: int) -> str:
    """Of real-time signals, only the first and the last have a name."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _merged(steps: Iterable[Iterable[TokenDelta]]) -> list[TokenDelta]:
    """One of each request."""
    by_id: defaultdict[int, list[TokenDelta]] = defaultdict(list)
    for delta in itertools.chain.from_iterable(steps):
        by_id[delta.id].append(delta)
    return [deltas[0] if len(deltas) == 1 else _joined(deltas) for deltas in by_id.values()]


def _joined(deltas: Sequence[TokenDelta]) -> TokenDelta:
    last = deltas[-1]
    return TokenDelta(
        id=last.id,
        token_ids=tuple(itertools.chain.from_iterable(delta.token_ids for delta in deltas)),
        finish_reason=last.finish_reason,
        stop_token_id=last.stop_token_id,
        cached_tokens=last.cached_tokens,
        queue_ms=deltas[0].queue_ms,
        prompt_logprobs=deltas[0].prompt_logprobs,
        logprobs=tuple(itertools.chain.from_iterable(delta.logprobs for delta in deltas)),
        error=last.error,
    )
