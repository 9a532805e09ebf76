"""HTTP to the server: one background thread with one event loop carries every exchange of this process.

Responsible for: connections, server-sent events, and turning what can go wrong on the way into this package's
errors. The thread starts with the first exchange, ends at exit, and is started anew in a forked child. What
events mean is `parrot.conversation`'s business.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import msgspec

from parrot.errors import ConnectionError, ParrotError, api_error
from parrot.wire import ProgramEvent, Struct

CONNECT_TIMEOUT_S = 10.0
T = TypeVar("T")

_EVENTS: msgspec.json.Decoder[ProgramEvent] = msgspec.json.Decoder(ProgramEvent)
_TAGS = frozenset(str(kind.__struct_config__.tag) for kind in ProgramEvent.__args__)
_TROUBLE = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server and the key it knows us by."""

    base_url: str
    api_key: str | None = None

    async def request(self, method: str, path: str) -> bytes:
        """The body of a 2xx answer. Raises ApiError or ConnectionError. Runs on the background loop."""
        try:
            async with self._client().request(method, self.base_url + path) as response:
                body = await response.read()
        except _TROUBLE as error:
            raise self._trouble(error) from error
        if response.status >= 400:
            raise api_error(response.status, body)
        return body

    @asynccontextmanager
    async def events(
        self, method: str, path: str, body: Struct | None = None, query: Mapping[str, str] | None = None
    ) -> AsyncIterator[AsyncIterator[ProgramEvent]]:
        """The events of a streamed answer; leaving the context closes the connection."""
        data = None if body is None else msgspec.json.encode(body)
        headers = None if body is None else {"Content-Type": "application/json"}
        client, url = self._client(), self.base_url + path
        try:
            async with client.request(method, url, data=data, headers=headers, params=query) as response:
                if response.status >= 400:
                    raise api_error(response.status, await response.read())
                async with aclosing(_decoded(response)) as events:
                    yield events
        except ParrotError:
            raise
        except _TROUBLE as error:
            raise self._trouble(error) from error

    def _client(self) -> aiohttp.ClientSession:
        return background().client(self)

    def _trouble(self, error: BaseException) -> ConnectionError:
        return ConnectionError(f"{self.base_url}: {error or type(error).__name__}")


class Background:
    """The thread and its loop. `_clients` is touched on the loop alone."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._clients: dict[Endpoint, aiohttp.ClientSession] = {}
        self._thread = threading.Thread(target=self._loop.run_forever, name="parrot-transport", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def client(self, endpoint: Endpoint) -> aiohttp.ClientSession:
        if endpoint not in self._clients:
            key = endpoint.api_key
            self._clients[endpoint] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                headers={"Authorization": f"Bearer {key}"} if key else None,
            )
        return self._clients[endpoint]

    def close(self) -> None:
        """At exit: what still runs is left, which cancels it at the server."""
        if os.getpid() != self._pid or self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in self._clients.values():
            await client.close()


class _Starter:
    """The one Background of a process, started when it is needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started: Background | None = None

    def get(self) -> Background:
        with self._lock:
            if self._started is None:
                self._started = Background()
            return self._started

    def forget(self) -> None:
        """In a forked child, which has the parent's objects but not its thread.

        They must not even be finalised: that would take the parent's sockets out of the epoll they share.
        """
        self._lock = threading.Lock()
        if self._started is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._started))
            self._started = None


_starter = _Starter()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_starter.forget)


def background() -> Background:
    return _starter.get()


async def _decoded(response: aiohttp.ClientResponse) -> AsyncGenerator[ProgramEvent, None]:
    """Events of kinds that this version does not know are skipped; an error event is raised."""
    async with aclosing(_frames(response)) as frames:
        async for kind, data in frames:
            if data == b"[DONE]":
                return
            if kind in _TAGS:
                yield _EVENTS.decode(data)
            elif kind == "":
                raise api_error(500, data)


async def _frames(response: aiohttp.ClientResponse) -> AsyncGenerator[tuple[str, bytes], None]:
    rest = b""
    async for chunk in response.content.iter_any():
        *frames, rest = (rest + chunk).split(b"\n\n")
        for frame in frames:
            kind, data = "", b""
            for line in frame.split(b"\n"):
                if line.startswith(b"event: "):
                    kind = line[7:].decode()
                elif line.startswith(b"data: "):
                    data = line[6:]
            if data:
                yield kind, data
