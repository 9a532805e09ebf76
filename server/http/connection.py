"""One client's connection: what is answered when it is no HTTP, and how long one may say nothing.

Responsible for: OpenAI's error object also where no handler was reached (a request line, a header or a chunk that
cannot be read: 400, 414, 431), for counting those answers, and for closing a connection that does not bring its
first request in time, or the next one in a little more. A client that closes its half of the connection counts as
one that has left, because nobody can tell the two apart. Leaves to others: whatever is a request
(`server.http.middleware`), and its body.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4

from aiohttp import http_exceptions, web

from compat.openai.errors import error_body

log = logging.getLogger(__name__)

MAX_LINE = 16 * 2**10
MAX_FIELD = 32 * 2**10
MAX_HEADERS = 128
BACKLOG = 1024
SECOND_LOOK_S = 0.1
IDLE = 1.25
"""Times the patience, between two requests: more than the minute after which proxies let go of a connection."""

LINGER_S = 5.0
"""How long the rest of a body is read and dropped, so that its sender comes to read why it was refused."""

Observer = Callable[[int], None]
"""Of an answer to what is no request: its status."""


class Connection(web.RequestHandler):
    """aiohttp's protocol with an end of its own for what is wrong. `patience`: seconds for the first request."""

    __slots__ = ("_first_request", "_observer", "_patience")

    def __init__(
        self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, patience: float, observer: Observer
    ) -> None:
        super().__init__(
            manager,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # it is documented, but not typed
            max_line_size=MAX_LINE,
            max_field_size=MAX_FIELD,
            max_headers=MAX_HEADERS,
            keepalive_timeout=IDLE * patience,
            lingering_time=min(patience, LINGER_S),
        )
        self._patience = patience
        self._observer = observer
        self._first_request: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._first_request = self._loop.call_later(self._patience, self._expect_request)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._first_request is not None:
            self._first_request.cancel()
        super().connection_lost(exc)

    def _expect_request(self, again: bool = True) -> None:
        """Looked at twice: after a stall of the loop, what has arrived is read between the two."""
        if self._request_count:
            return
        if again:
            self._first_request = self._loop.call_later(SECOND_LOOK_S, self._expect_request, False)
        else:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Raises ConnectionError where nobody can be answered any more."""
        if isinstance(exc, ConnectionError) or request.writer.output_size > 0:
            raise ConnectionError("the client has left, or has half an answer")
        if status >= 500:
            log.error("a request failed outside of its handler", exc_info=exc)
            return self._answer(500, "Internal server error.", "server_error", "internal_error")
        status, text, code = malformed(exc)
        log.debug("no HTTP from %s: %r", request.remote, exc)
        self._observer(status)
        return self._answer(status, text, "invalid_request_error", code)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPExpectationFailed):  # aiohttp answers it before any middleware
            self._observer(resp.status)
            text = "Expect may only be 100-continue."
            resp = self._answer(resp.status, text, "invalid_request_error", "expectation_failed")
        return await super().finish_response(request, resp, start_time)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """What a client did wrong with its body was its handler's to answer, and is no error of ours."""
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)

    def _answer(self, status: int, message: str, type: str, code: str) -> web.StreamResponse:
        answer = web.Response(
            status=status,
            body=error_body(message, type, None, code),
            content_type="application/json",
            headers={"X-Request-Id": uuid4().hex},
        )
        answer.force_close()
        return answer


async def listen(
    server: web.Server, host: str, port: int, patience: float, observer: Observer
) -> asyncio.Server:
    """A listener whose connections are ours. Raises OSError."""
    loop = asyncio.get_running_loop()
    connect = partial(Connection, server, loop=loop, patience=patience, observer=observer)
    return await loop.create_server(connect, host, port, backlog=BACKLOG)


def malformed(error: BaseException | None) -> tuple[int, str, str]:
    """Status, message and code for what the parser could not read."""
    if isinstance(error, http_exceptions.LineTooLong):
        if MAX_LINE in error.args:
            return 414, f"The request line is longer than {MAX_LINE} bytes.", "url_too_long"
        return 431, f"A header is longer than {MAX_FIELD} bytes.", "headers_too_large"
    if not isinstance(error, http_exceptions.HttpProcessingError):
        return 400, "This is no HTTP request.", "malformed_request"
    if error.message == "Too many headers received":
        return 431, f"The request has more than {MAX_HEADERS} headers.", "headers_too_large"
    # What follows shows the client's bytes back, with a pointer into them.
    problem = error.message.partition(":\n")[0].rstrip(":.")
    return 400, f"This is no HTTP request: {problem}.", "malformed_request"
