"""The engine processes: started, watched, started again, ended.

Responsible for: one EngineClient per engine, telling a listener when it is up or down, and the life after a death:
an engine that ends or hangs is started again with a growing delay. Decides nothing about requests. Each engine has
one task for as long as the pool is open.

    loading --> ready --(dies, hangs)--> restarting --> ready         failed: could not load, or died MAX_FAILURES
       |                                     |  ^                     times without progress. Of the latter kind it
       +---> failed                          +--+--> failed --> ready is tried again, but nobody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.client import EngineClient, EngineDied, Reader
from engine.config import EngineConfig
from engine.types import Generate, Hint, Loading, Ready, StepReport, Warm
from server.scheduler.loading_bar import LoadingBar
from server.scheduler.restarts import Restarts
from server.scheduler.watchdog import Watchdog

log = logging.getLogger(__name__)

GRACE_S = 2.0
"""How long the step that runs may take when the server ends."""

MAX_RELEASES = 16

RELOAD_PATIENCE = 5.0
"""A restart may take so many times as long as the first load, plus the step timeout, before it is killed."""


@dataclass(frozen=True, slots=True)
class PoolListener:
    """What the pool calls, on the event loop, with an engine's id first."""

    on_up: Callable[[int, Ready], None]
    on_down: Callable[[int, str], None]
    on_report: Callable[[int, StepReport], None]


@dataclass(slots=True)
class EngineState:
    """One engine as the outside sees it. `load_s`: how long its first load took."""

    status: str = "loading"  # loading | ready | restarting | failed
    detail: str = ""
    client: EngineClient | None = None
    watchdog: Watchdog | None = None
    ready: Ready | None = None
    load_s: float = 0.0
    restarts: int = 0
    releases: list[Hint] = field(default_factory=list)

    def __str__(self) -> str:
        detail = self.detail
        if self.status == "ready" and self.watchdog is not None and (silent := self.watchdog.silent_s) > 1.0:
            detail = f"no step for {silent:.0f} s"
        return f"{self.status}: {detail}" if detail else self.status


@dataclass(slots=True)
class _Life:
    """How one process of an engine fared."""

    message: str = ""
    ready_at: float | None = None
    progressed: bool = False


class EnginePool:
    """Owns the processes and their states; an engine's id is its index.

    `unloadable` is set when no engine could be loaded at all: that does not mend itself.
    """

    def __init__(self, listener: PoolListener, step_timeout_s: float) -> None:
        self._listener = listener
        self._step_timeout = step_timeout_s
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Condition()
        self._closing = False
        self._bar = LoadingBar(0, sys.stderr)
        self.states: list[EngineState] = []
        self.unloadable = asyncio.Event()

    @property
    def any_ready(self) -> bool:
        return any(state.status == "ready" for state in self.states)

    @property
    def failed(self) -> bool:
        """No engine is up, and none is expected to be soon."""
        return self.unloadable.is_set() or (
            bool(self.states) and all(state.status == "failed" for state in self.states)
        )

    async def open(self, engine_id: int, request: Generate, reader: Reader) -> EngineClient:
        """As EngineClient.open, on an engine that is up; the watchdog begins to count. By whom it is to be left."""
        state = self.states[engine_id]
        if state.watchdog is not None:
            state.watchdog.work_given()
        client = self.client(engine_id)
        await client.open(request, reader)
        return client

    def hint(self, engine_id: int, hint: Hint) -> None:
        """Nothing happens when the engine is down: it has forgotten what this is about.

        What is not wanted any more is told once the engine evicts something, or when there is much of it: that
        alone is not worth waking an engine for.
        """
        state = self.states[engine_id]
        if state.status != "ready" or state.client is None:
            return
        if hint.next_use is not None:
            state.client.hint(hint)
            return
        state.releases.append(hint)
        if len(state.releases) > MAX_RELEASES:
            _tell_releases(state)

    def warm(self, engine_id: int, request: Warm) -> None:
        """As `hint`. What came of it is in a report."""
        state = self.states[engine_id]
        if state.status == "ready" and state.client is not None:
            state.client.warm(request)

    def abort(self, engine_id: int, request_id: int) -> None:
        """Of a Warm."""
        state = self.states[engine_id]
        if state.status == "ready" and state.client is not None:
            state.client.abort(request_id)

    def client(self, engine_id: int) -> EngineClient:
        client = self.states[engine_id].client
        assert client is not None, "an engine gets work only when it is up"
        return client

    def start(self, configs: Sequence[EngineConfig]) -> None:
        self.states = [EngineState() for _ in configs]
        self._bar = LoadingBar(len(configs), sys.stderr)
        self._tasks = [
            asyncio.create_task(self._run(index, config), name=f"engine {index}")
            for index, config in enumerate(configs)
        ]

    async def wait_ready(self) -> list[Ready]:
        """Returns when every engine has been ready or has failed: what those that have been said."""
        async with self._changed:
            await self._changed.wait_for(lambda: all(state.status != "loading" for state in self.states))
        return [state.ready for state in self.states if state.ready is not None]

    async def close(self) -> None:
        """End the processes. Those that still load are ended too."""
        self._closing = True
        live = [(state.client, state.status) for state in self.states if state.client is not None]
        # One that loads does not listen before it has loaded.
        await asyncio.gather(
            *(client.close(GRACE_S if status == "ready" else 0.0) for client, status in live)
        )
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, engine_id: int, config: EngineConfig) -> None:
        """One process after another, until the pool closes or the engine proves unable to load at all."""
        state, restarts = self.states[engine_id], Restarts()
        while True:
            life = await self._live(engine_id, config)
            self._bar.close()  # what is logged begins a line of its own
            if self._closing:
                return
            log.error("engine %d: %s", engine_id, life.message)
            if state.ready is None:
                await self._set(state, "failed", life.message)
                if all(other.status == "failed" for other in self.states):
                    self.unloadable.set()
                self._listener.on_down(engine_id, life.message)
                return
            up = 0.0 if life.ready_at is None else time.monotonic() - life.ready_at
            delay = restarts.died(progressed=life.progressed, ready_s=up)
            state.restarts += 1
            await self._set(state, "failed" if restarts.hopeless else "restarting", life.message)
            self._listener.on_down(engine_id, life.message)
            log.warning("engine %d: starting again in %.1f s", engine_id, delay)
            await asyncio.sleep(delay)

    async def _live(self, engine_id: int, config: EngineConfig) -> _Life:
        """One process from its start to its end."""
        state, life = self.states[engine_id], _Life()

        def on_loading(loading: Loading) -> None:
            state.detail = f"{loading.stage} {loading.fraction:.0%}"
            self._bar.show(engine_id, loading)

        def on_report(report: StepReport) -> None:
            life.progressed = life.progressed or report.num_tokens > 0
            watchdog.fed()
            self._listener.on_report(engine_id, report)
            if state.releases and report.num_evictions:
                _tell_releases(state)

        begun = time.monotonic()
        try:
            client = await EngineClient.start(config, on_report=on_report, on_loading=on_loading)
        except OSError as error:
            life.message = f"its process could not be started: {error}"
            return life
        watchdog = Watchdog(self._step_timeout, lambda: client.num_open > 0, lambda s: _kill(client, s))
        state.client, state.watchdog = client, watchdog
        try:
            ready = await self._loaded(client, state)
            life.ready_at = time.monotonic()
            state.load_s = state.load_s or life.ready_at - begun
            await self._up(engine_id, ready)
            life.message = await client.ended
        except EngineDied as error:
            life.message = str(error)
        except Exception as error:
            log.exception("engine %d: its supervision failed", engine_id)
            life.message = f"its supervision failed: {type(error).__name__}: {error}"
        finally:
            watchdog.stop()
            await client.close(grace_s=0.0)
        return life

    async def _loaded(self, client: EngineClient, state: EngineState) -> Ready:
        """The first load takes what it takes; a later one that takes much longer is killed. Raises EngineDied."""
        limit = None
        if state.ready is not None:
            limit = self._step_timeout + RELOAD_PATIENCE * state.load_s
        try:
            async with asyncio.timeout(limit):
                return await client.ready
        except TimeoutError:
            client.kill(f"it was not loaded again within {limit:.0f} s")
            raise EngineDied(await client.ended) from None

    async def _up(self, engine_id: int, ready: Ready) -> None:
        log.info(
            "engine %d is ready: %s on %s, %d threads, %d KV blocks of %d tokens (%.0f MiB)",
            *(engine_id, ready.dtype, ready.device, ready.num_threads, ready.num_blocks),
            *(ready.block_size, ready.kv_cache_bytes / 2**20),
        )
        state = self.states[engine_id]
        state.ready = ready
        state.releases.clear()
        self._listener.on_up(engine_id, ready)
        await self._set(state, "ready", "")

    async def _set(self, state: EngineState, status: str, detail: str) -> None:
        state.status, state.detail = status, detail
        async with self._changed:
            self._changed.notify_all()


def _tell_releases(state: EngineState) -> None:
    if state.client is not None:
        for hint in state.releases:
            state.client.hint(hint)
    state.releases.clear()


def _kill(client: EngineClient, silent_s: float) -> None:
    client.kill(f"it has work and ended no step for {silent_s:.1f} s (--step-timeout), so it was killed")
