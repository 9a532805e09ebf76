"""What is answered to bytes that are no request, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from server.http.body import read
from server.http.connection import MAX_FIELD, MAX_HEADERS, MAX_LINE, listen
from server.http.middleware import install
from server.tenant import KeyRing

PATIENCE = 0.2
POST = b"POST /echo HTTP/1.1\r\nHost: x\r\n"


@dataclass(slots=True)
class Edge:
    """A listener in front of one handler, and the answers that no handler gave."""

    port: int
    malformed: list[int] = field(default_factory=list)

    async def send(self, data: bytes) -> tuple[int, dict[str, str | None], str]:
        """The status, error object and head of the last answer before the connection was closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            answer = await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()
        head, _, body = answer.decode().rpartition("\r\n\r\n")
        return int(head.rpartition("HTTP/1.")[2][2:5]), json.loads(body)["error"], head


async def echo(request: web.Request) -> web.Response:
    return web.json_response(await read(request, dict))


@asynccontextmanager
async def edge() -> AsyncIterator[Edge]:
    app = web.Application()
    install(app, KeyRing(()))
    app.add_routes([web.post("/echo", echo)])
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    assert runner.server is not None
    found = Edge(0)
    listener = await listen(runner.server, "127.0.0.1", 0, PATIENCE, found.malformed.append)
    found.port = listener.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        listener.close()
        await runner.cleanup()


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"GET /" + b"x" * MAX_LINE + b" HTTP/1.1\r\n\r\n", 414, "url_too_long"),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * MAX_FIELD + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * (MAX_HEADERS + 2) + b"\r\n", 431, "headers_too_large"),
        (b"GET / HTTP/9.9\r\n\r\n", 400, "malformed_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, "malformed_request"),
        (b"G\xfft / HTTP/1.1\r\n\r\n", 400, "malformed_request"),
        (POST + b"Content-Length: -1\r\n\r\n", 400, "malformed_request"),
        (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", 400, "malformed_request"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", 400, "malformed_request"),
        (POST + b"Expect: the unexpected\r\nContent-Length: 2\r\n\r\n{}", 417, "expectation_failed"),
    ],
)
async def test_what_cannot_be_read_is_answered_in_openai_s_shape_and_counted(
    data: bytes, status: int, code: str
) -> None:
    async with edge() as server:
        got, error, head = await server.send(data)
        assert (got, error["code"]) == (status, code)
        assert error.keys() == {"message", "type", "param", "code"}
        assert "Content-Type: application/json" in head
        assert "X-Request-Id: " in head
        assert server.malformed == [status]


async def test_a_body_that_cannot_be_unpacked_is_the_client_s_error(caplog: pytest.LogCaptureFixture) -> None:
    packed = b"Connection: close\r\nContent-Encoding: deflate\r\nContent-Length: 5\r\n\r\n" + b"\xff" * 5
    async with edge() as server:
        status, error, _ = await server.send(POST + packed)
    assert (status, error["code"]) == (400, "malformed_body")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("data", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nA: b\r\n"])
async def test_a_connection_that_brings_no_request_is_closed(data: bytes) -> None:
    async with edge() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(data)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_a_connection_that_trickles_its_second_request_is_closed_like_one_with_a_first() -> None:
    async with edge() as found:
        reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
        writer.write(POST + b"Content-Length: 2\r\n\r\n{}")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n{}"), 10)).startswith(b"HTTP/1.1 200")
        writer.write(b"GET / HTTP/1.1\r\nA: b\r\n")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
