"""The composition root: one aiohttp application out of a ServerConfig, and the process around it.

Responsible for: who is wired to whom, the listener, signals and the order of ending. A first SIGTERM or SIGINT
drains (readiness off, new work refused with 503, running work gets `shutdown_grace` seconds), a second one
stops at once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
from functools import partial

import uvloop
from aiohttp import web

from server import logs
from server.config import ServerConfig
from server.http import admin, docs, messages, openai, responses, semantic
from server.http.connection import listen
from server.http.keys import CLIENT_TIMEOUT, SERVICE
from server.http.live import LiveRequests
from server.http.middleware import install
from server.service import Service
from server.tenant import KeyRing

log = logging.getLogger(__name__)
access = logging.getLogger("server.access")

MAX_FILES = 65_536


def create_app(config: ServerConfig) -> web.Application:
    """Everything behind the port. The engines load in the background of a running application."""
    app = web.Application(client_max_size=config.max_body_size)
    service = Service(config)

    def observe(method: str, route: str, status: int, seconds: float) -> None:
        service.metrics.answered(method, route, status)
        if config.access_log:
            access.info("%s %s %d %.1f ms", method, route, status, seconds * 1e3)

    keys = KeyRing(config.api_key, config.keys)
    install(app, keys, open_metrics=config.open_metrics, observer=observe)
    app[SERVICE] = service
    app[CLIENT_TIMEOUT] = config.client_timeout
    live = LiveRequests()
    app.add_routes(
        [*admin.routes(), *docs.routes(), *openai.routes(live), *messages.routes(live), *semantic.routes()]
    )
    responses.install(app, live)

    async def start(_: web.Application) -> None:
        service.start()

    async def end(_: web.Application) -> None:
        await service.close()

    app.on_startup.append(start)
    app.on_shutdown.append(end)  # while there are connections: who waits is told that nothing will come
    return app


def run(config: ServerConfig) -> int:
    """Serve until a signal; returns the process's exit code."""
    logs.configure(config.log_level, config.log_format)
    _allow_connections()
    # What is loaded now lives as long as the process, and streams make cyclic garbage slowly: collecting as often
    # as by default costs several microseconds of every streamed token.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config))


def _allow_connections() -> None:
    """As many files as the system lets us have: with the usual 1024, idle connections would soon leave none for an
    engine that has to be started again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(config: ServerConfig) -> int:
    app = create_app(config)
    # A client that leaves cancels its handler, and that aborts its generation: off by default in aiohttp.
    runner = web.AppRunner(app, handle_signals=False, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    assert runner.server is not None, "it has been set up"
    observer = partial(app[SERVICE].metrics.answered, "-", "malformed")
    try:
        listener = await listen(runner.server, config.host, config.port, config.client_timeout, observer)
    except OSError as error:
        await runner.cleanup()
        log.error("cannot listen on %s:%d (--host, --port): %s", config.host, config.port, error.strerror)
        return 1
    _announce(listener, config)
    drained = await _until_ended(app[SERVICE], config.shutdown_grace)
    listener.close()
    await runner.cleanup()
    return 0 if drained else 1


def _announce(listener: asyncio.Server, config: ServerConfig) -> None:
    port = listener.sockets[0].getsockname()[1]
    log.info("listening on http://%s:%d (engines are loading)", config.host, port)
    if config.host not in ("127.0.0.1", "::1", "localhost") and not config.api_key and not config.keys:
        log.warning("anybody who can reach %s may use this server: set --api-key", config.host)


async def _until_ended(service: Service, grace: float) -> bool:
    """Wait for a signal, then drain; or for engines that cannot be loaded. True: all work has ended by itself."""
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    again = asyncio.ensure_future(signals.get())
    failed = asyncio.ensure_future(service.unloadable.wait())
    await asyncio.wait({again, failed}, return_when=asyncio.FIRST_COMPLETED)
    if not again.done():
        again.cancel()
        return False
    failed.cancel()
    log.info(
        "draining: %d running, at most %.0f s; a second signal stops at once",
        service.dispatcher.num_tasks,
        grace,
    )
    idle = asyncio.ensure_future(service.drain())
    again = asyncio.ensure_future(signals.get())
    await asyncio.wait({idle, again}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
    drained = idle.done()
    idle.cancel()
    again.cancel()
    return drained
