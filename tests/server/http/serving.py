"""A real listener around a few handlers: what a client sees of the edge, without a model behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aiohttp import ClientSession, web

from server.http.keys import CLIENT_TIMEOUT
from server.http.middleware import install
from server.tenant import KeyRing


@asynccontextmanager
async def serving(
    routes: Iterable[web.RouteDef],
    keys: tuple[str, ...] = (),
    *,
    open_metrics: bool = False,
    max_body: int = 2**20,
    client_timeout: float = 60.0,
) -> AsyncIterator[ClientSession]:
    """A client of an application whose handlers are cancelled when their client leaves, as in production."""
    app = web.Application(client_max_size=max_body)
    install(app, KeyRing(keys), open_metrics=open_metrics)
    app[CLIENT_TIMEOUT] = client_timeout
    app.add_routes(routes)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        async with ClientSession(f"http://{host}:{port}") as client:
            yield client
    finally:
        await runner.cleanup()
