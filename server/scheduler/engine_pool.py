"""The engine processes: started, asked for their state, ended.

Responsible for: one EngineClient per engine, and telling a listener when it is up or down. Decides nothing about
requests. Each engine has one task that lives as long as its process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.client import EngineClient, EngineDied
from engine.config import EngineConfig
from engine.types import Loading, Ready, StepReport

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PoolListener:
    """What the pool calls, on the event loop, with an engine's id first."""

    on_up: Callable[[int, Ready], None]
    on_down: Callable[[int, str], None]
    on_report: Callable[[int, StepReport], None]


@dataclass(slots=True)
class EngineState:
    """One engine as the outside sees it."""

    status: str = "loading"  # loading | ready | failed
    detail: str = ""
    client: EngineClient | None = None
    ready: Ready | None = None

    def __str__(self) -> str:
        return f"{self.status}: {self.detail}" if self.detail else self.status


class EnginePool:
    """Owns the processes and their states; an engine's id is its index. `failed` is set when none is left."""

    def __init__(self, listener: PoolListener) -> None:
        self._listener = listener
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Condition()
        self._closing = False
        self.states: list[EngineState] = []
        self.failed = asyncio.Event()

    @property
    def all_ready(self) -> bool:
        return bool(self.states) and all(state.status == "ready" for state in self.states)

    def client(self, engine_id: int) -> EngineClient:
        client = self.states[engine_id].client
        assert client is not None, "an engine gets work only when it is up"
        return client

    def start(self, configs: Sequence[EngineConfig]) -> None:
        self.states = [EngineState() for _ in configs]
        self._tasks = [
            asyncio.create_task(self._run(index, config), name=f"engine {index}")
            for index, config in enumerate(configs)
        ]

    async def wait_ready(self) -> list[Ready]:
        """Returns when every engine is ready or has failed: what those that are ready said."""
        async with self._changed:
            await self._changed.wait_for(lambda: all(state.status != "loading" for state in self.states))
        return [state.ready for state in self.states if state.status == "ready" and state.ready is not None]

    async def close(self) -> None:
        """End the processes. Those that still load are ended too."""
        self._closing = True
        clients = [state.client for state in self.states if state.client is not None]
        await asyncio.gather(*(client.close() for client in clients))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, engine_id: int, config: EngineConfig) -> None:
        """One process from its start to its end."""
        state, listener = self.states[engine_id], self._listener

        def on_loading(loading: Loading) -> None:
            state.detail = f"{loading.stage} {loading.fraction:.0%}"

        client = state.client = await EngineClient.start(
            config, on_report=lambda report: listener.on_report(engine_id, report), on_loading=on_loading
        )
        try:
            ready = await client.ready
            log.info(
                "engine %d is ready: %s on %s, %d threads, %d KV blocks of %d tokens (%.0f MiB)",
                *(engine_id, ready.dtype, ready.device, ready.num_threads, ready.num_blocks),
                *(ready.block_size, ready.kv_cache_bytes / 2**20),
            )
            state.ready = ready
            listener.on_up(engine_id, ready)
            await self._set(state, "ready", "")
            message = await client.ended
        except EngineDied as error:
            message = str(error)
        if not self._closing:
            log.error("engine %d: %s", engine_id, message)
        await self._set(state, "failed", message)
        if all(state.status == "failed" for state in self.states):
            self.failed.set()
        listener.on_down(engine_id, message)

    async def _set(self, state: EngineState, status: str, detail: str) -> None:
        state.status, state.detail = status, detail
        async with self._changed:
            self._changed.notify_all()
