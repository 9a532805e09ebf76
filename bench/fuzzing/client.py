"""Sends bytes and says what is wrong with what came back: HTTP by hand, so that no library mends anything."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

PATIENCE_S = 60.0
READ = 2**16
MEMBERS = {"message", "type", "param", "code"}
LAST_EVENTS = {
    b"event: message_stop",
    b"event: error",
    b"event: response.completed",
    b"event: response.incomplete",
    b"event: response.failed",
}
"""Of the formats whose streams end without `[DONE]`."""


@dataclass(frozen=True, slots=True)
class Reply:
    """`status` 0: the connection was closed without an answer."""

    status: int
    headers: dict[str, str]
    body: bytes


async def exchange(url: str, data: bytes, *, half_close: bool = False, kept_s: float | None = None) -> Reply:
    """One connection for one request. `kept_s`: a connection that is silent for so long after an answer is one that
    the server rightly keeps open. Raises TimeoutError when neither an answer nor an end comes."""
    where = urlsplit(url)
    async with asyncio.timeout(PATIENCE_S):
        # In one go: when many are opened at a time, ours must not be the client that says nothing for too long.
        connection = socket.create_connection((where.hostname, where.port))
        connection.setblocking(False)
        data = data[connection.send(data) :]
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            answer = asyncio.create_task(_read(reader, kept_s))
            try:
                writer.write(data)
                await writer.drain()
                if half_close:
                    writer.write_eof()
            except OSError:
                pass  # it was refused before all of it was sent; what was said is read all the same
            return _parsed(await answer)
        finally:
            writer.transport.abort()


async def _read(reader: asyncio.StreamReader, kept_s: float | None) -> bytes:
    data = bytearray()
    with suppress(OSError, TimeoutError):
        while part := await asyncio.wait_for(reader.read(READ), kept_s if data else None):
            data += part
    return bytes(data)


def _parsed(data: bytes) -> Reply:
    head, _, body = data.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        head, _, body = body.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) < 2 or not parts[1].isdigit():
        return Reply(0, {}, data)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = _unchunked(body)
    elif (length := headers.get("content-length")) is not None:
        body = body[: int(length)]
    return Reply(int(parts[1]), headers, body)


def _unchunked(data: bytes) -> bytes:
    body = bytearray()
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size or b"0", 16)
        body += data[:length]
        data = data[length + 2 :]
    return bytes(body)


def complaint(reply: Reply, *, lawful: bool, head_only: bool = False) -> str | None:
    """What is wrong with an answer; None where nothing is."""
    if reply.status == 0:
        return "no answer" if lawful else None
    if reply.status >= 500:
        return f"status {reply.status}"
    if reply.status == 204 or head_only:
        return None
    kind = reply.headers.get("content-type", "").partition(";")[0]
    if kind == "text/event-stream":
        return None if _has_ended(reply.body) else "a stream without an end"
    if reply.status >= 400 or kind == "application/json":
        return _json_complaint(reply)
    return None


def _has_ended(stream: bytes) -> bool:
    """Whether the last event is one that ends a stream, in whatever format."""
    if stream.endswith(b"data: [DONE]\n\n"):
        return True
    name = stream.rstrip(b"\n").rpartition(b"\n\n")[2].partition(b"\n")[0]
    return name in LAST_EVENTS


def _json_complaint(reply: Reply) -> str | None:
    try:
        body = json.loads(reply.body)
    except ValueError:
        return f"status {reply.status} with a body that is no JSON"
    if reply.status < 400:
        return None
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict) or not error.get("message"):
        return f"status {reply.status} without an error object"
    if body.get("type") == "error":  # Anthropic's, which has no more members
        return None if error.get("type") and body.get("request_id") else "an error without all members"
    return None if error.keys() >= MEMBERS else "an error without all members"
