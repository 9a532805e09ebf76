"""Writes server-sent events.

Responsible for: the response headers, the framing, and every way in which a stream can end. As a context
manager a `Stream` ends itself as its format has it (`Ending`): OpenAI's with `data: [DONE]` after a normal exit,
and with an error event before it when the body raised; any with silence when the client has left. Until the first
write nothing is sent, so an error before it is an ordinary HTTP error. A client that does not read for too long is
one that has left: what is written and not read is bounded (the transport's buffer), and so is the time that a
generation waits for its reader. What an event's data means is the caller's business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from compat.blocks import TypedEvent
from compat.openai.errors import error_body
from parrot.wire import ErrorInfo
from server.errors import ApiError
from server.http.keys import CLIENT_TIMEOUT

log = logging.getLogger(__name__)

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would collect events
}
_INTERNAL = ErrorInfo(
    message="Internal server error.", type="server_error", param=None, code="internal_error"
)

BACKLOG = 16_384
"""Bytes that a client has not taken yet, up to which it keeps up."""


def frame(data: bytes, event: str | None = None) -> bytes:
    """One event. `data` is a single line (JSON is)."""
    if event is None:
        return b"data: %b\n\n" % data
    return b"event: %b\ndata: %b\n\n" % (event.encode(), data)


def data_frames(data: Sequence[bytes]) -> bytes:
    """Events without a name."""
    return b"data: %b\n\n" % b"\n\ndata: ".join(data) if data else b""


def frames(events: Iterable[TypedEvent]) -> bytes:
    return b"".join(frame(event.data, event.name) for event in events)


@dataclass(frozen=True, slots=True)
class Ending:
    """The last frames of a format's streams: `done` in any case, before it `error` (status, what was wrong) in the
    place of all that would have followed."""

    done: bytes
    error: Callable[[int, ErrorInfo], bytes]


def _openai_error(_: int, info: ErrorInfo) -> bytes:
    return frame(error_body(info.message, info.type, info.param, info.code))


OPENAI = Ending(b"data: [DONE]\n\n", _openai_error)


class Stream:
    """One streamed answer; the handler returns `response` after the `async with`.

    aiohttp writes what comes before the body and what ends it. Its write is a coroutine, and events are mostly sent
    from where none can run (`send`), so between the two the body's chunks are written here.

    What finds the client gone raises ConnectionResetError, which leaves the `async with` body (and with it the
    generation) and is swallowed at its edge.
    """

    def __init__(self, request: web.Request, ending: Ending = OPENAI) -> None:
        self._request = request
        self._ending = ending
        self._patience = request.app.get(CLIENT_TIMEOUT)
        self._transport: asyncio.Transport | None = None  # once the headers are written
        self._chunked = False
        self._done = False
        self.response = web.StreamResponse(headers=_HEADERS)

    @property
    def flows(self) -> bool:
        """Whether what is sent now goes out at once: the answer has begun, and its client keeps up."""
        transport = self._transport
        return (
            transport is not None
            and not transport.is_closing()
            and transport.get_write_buffer_size() <= BACKLOG
        )

    def send(self, frames: bytes) -> None:
        """Whole frames, one or many. To be asked first: `flows`."""
        assert self._transport is not None, "it flows"
        if frames:  # a chunk of nothing would be the last one
            self._transport.write(b"%x\r\n%b\r\n" % (len(frames), frames) if self._chunked else frames)

    async def write(self, frames: bytes) -> None:
        """As `send`, at any time. Waits while the client reads slower than we produce."""
        if not frames:
            return
        transport, writer = await self._begin()
        if transport.is_closing():
            raise ConnectionResetError("the client has left")
        self.send(frames)
        if not self.flows:  # a timer for each token would be dear
            await self._patiently(writer.drain())

    async def done(self) -> None:
        if not self._done:
            self._done = True
            await self._begin()
            await self._patiently(self.response.write_eof(self._ending.done))

    async def _begin(self) -> tuple[asyncio.Transport, AbstractStreamWriter]:
        """Writes the headers, the first time."""
        writer, transport = await self.response.prepare(self._request), self._request.transport
        if writer is None or transport is None:
            raise ConnectionResetError("the client has left")
        if self._transport is None:
            writer.send_headers()
            self._chunked = self.response.headers.get("Transfer-Encoding") == "chunked"  # since HTTP/1.1
            self._transport = transport
        return transport, writer

    async def _patiently(self, written: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await written
        except TimeoutError:
            log.info("the client does not read, so it is disconnected")
            if self._transport is not None:
                self._transport.abort()
            raise ConnectionResetError("the client does not read") from None

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, ConnectionResetError):
            return True
        if error is not None and (not isinstance(error, Exception) or not self.response.prepared):
            return False
        try:
            if isinstance(error, ApiError):
                await self.write(self._ending.error(error.status, error.info))
            elif error is not None:
                log.error("a stream failed", exc_info=error)
                await self.write(self._ending.error(500, _INTERNAL))
            await self.done()
        except ConnectionResetError:
            pass
        return True
