"""What handlers may ask for: one object behind every endpoint.

Responsible for: the model and its tokenizer, the engines behind the dispatcher, who may start work (nobody while
loading or draining), and the one path that every generation takes. Semantic variables are `server.sessions`'.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace

import msgspec

from engine.config import CPU_STEP, EngineConfig, SimConfig
from engine.types import Objective, Salt
from server.admission import Admission, Bounds
from server.call_cache import CallCache
from server.config import ServerConfig
from server.errors import NotFound, Unavailable
from server.generation import GenerationParams
from server.leases import leased
from server.lengths import Lengths
from server.metrics import Metrics, Probe
from server.model_card import ModelCard, ModelError, resolve_model
from server.placement import PlacementError, place_engines
from server.sampling import SamplingModel
from server.scheduler.app_scheduler import AppScheduler
from server.scheduler.dispatcher import Dispatcher, Generation, Work
from server.scheduler.events import TaskSpec
from server.sessions import Sessions
from server.tenant import Tenant
from server.tokenizer import LONG_TEXT, Tokenizer, TokenizerError

log = logging.getLogger(__name__)

LEAVE_S = 1.0
"""How long tasks that were cancelled may take to leave their engines, when the server ends."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """`status`: ready (one engine is enough), loading, restarting, draining or failed; `engines`: a line each."""

    status: str
    engines: tuple[str, ...]


class Service:
    """Owns the dispatcher, the sessions, the tokenizer and the metrics."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.metrics = Metrics(config.served_model_name[0] if config.served_model_name else config.model)
        self.admission = Admission(
            Bounds(
                seats=config.engines * (config.max_num_seqs or CPU_STEP.max_num_seqs),  # until they say it
                queued_requests=config.max_queued_requests,
                queued_tokens=config.max_queued_tokens,
                per_key=config.max_concurrency_per_key,
            )
        )
        self.dispatcher = Dispatcher(
            AppScheduler(
                disabled=frozenset(config.disable),
                hold_tokens=config.max_num_batched_tokens or CPU_STEP.max_num_batched_tokens,
            ),
            self.metrics,
            self.admission,
            step_timeout_s=config.step_timeout,
            request_timeout_s=config.request_timeout,
        )
        self.calls = None if "call-dedup" in config.disable else CallCache()
        self.disabled = frozenset(config.disable)
        self.lengths = Lengths(off="length-prediction" in self.disabled)
        self.sessions = Sessions(self)
        self.metrics.probes = (
            Probe("generations", "Generations in flight.", lambda: self.dispatcher.num_tasks),
            Probe("sessions", "Sessions that are open.", lambda: self.sessions.count),
            Probe("event_loop_tasks", "Tasks of the server's event loop.", lambda: len(asyncio.all_tasks())),
        )
        self._model: ModelCard | None = None
        self._tokenizer: Tokenizer | None = None
        self._loading: asyncio.Task[None] | None = None
        self._draining = False
        self._random = random.Random(config.seed)

    @property
    def model(self) -> ModelCard:
        """Raises Unavailable while it is being looked up."""
        if self._model is None:
            raise self._not_ready()
        return self._model

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises Unavailable while the engines load."""
        if self._tokenizer is None:
            raise self._not_ready()
        return self._tokenizer

    @property
    def sampling_model(self) -> SamplingModel:
        """What sampling fields are checked against. Raises Unavailable while the engines load."""
        tokenizer = self.tokenizer
        return SamplingModel(tokenizer.vocab_size, tokenizer.eos_token_ids, tokenizer.generation_defaults)

    def draw_seed(self) -> int:
        """For a request that brings none."""
        return self._random.getrandbits(63)

    @property
    def max_model_len(self) -> int:
        return self.model.max_model_len

    @property
    def unloadable(self) -> asyncio.Event:
        """Set when nothing could be loaded, which no waiting mends: the server ends."""
        return self.dispatcher.pool.unloadable

    @property
    def failed(self) -> bool:
        """No engine is up, and none is expected to be soon."""
        return self.dispatcher.pool.failed

    def start(self) -> None:
        """Load in the background: the listener is up already, and `/health/ready` tells how far this is."""
        self._loading = asyncio.create_task(self._load(), name="load")

    async def close(self) -> None:
        """End whatever runs, and the engines; who still waits is told so."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        await self.sessions.close()
        self.dispatcher.end(_ending)
        await self.dispatcher.pool.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.dispatcher.idle(), LEAVE_S)

    async def drain(self) -> None:
        """Refuse new work from now on; returns when what runs has ended."""
        self._draining = True
        await self.sessions.idle()
        await self.dispatcher.idle()

    def readiness(self) -> Readiness:
        engines = tuple(map(str, self.dispatcher.pool.states))
        if self.failed:
            return Readiness("failed", engines)
        if self._draining:
            return Readiness("draining", engines)
        if self._tokenizer is None:
            return Readiness("loading", engines)
        return Readiness("ready" if self.dispatcher.pool.any_ready else "restarting", engines)

    def admit(
        self,
        tenant: Tenant | None = None,
        app: str | None = None,
        *,
        requests: int = 1,
        tokens: int = 0,
        alongside: int = 0,
    ) -> None:
        """Whether new work is taken; to be asked before any is done for it. Raises Unavailable, TooManyRequests.

        Without a tenant: for what no engine has to do. `app`: the session that the work is for.
        `alongside`: see `Admission.check`.
        """
        if self._draining:
            raise _ending()
        if self._tokenizer is None or self.failed:
            raise self._not_ready()
        if tenant is not None:
            self.admission.check(
                tenant.id,
                app,
                requests=requests,
                tokens=tokens,
                per_key=tenant.max_concurrency,
                alongside=alongside,
            )

    def resolve_model(self, name: str | None) -> ModelCard:
        """The model behind a name of a request; absent means ours. Raises ModelNotFound, Unavailable."""
        self.model.check(name)
        return self.model

    async def tokenize(self, text: str, add_special_tokens: bool) -> list[int]:
        if len(text) < LONG_TEXT:
            return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return await asyncio.to_thread(self.tokenizer.encode, text, add_special_tokens=add_special_tokens)

    def generate(
        self,
        prompt_ids: Sequence[int],
        params: GenerationParams,
        *,
        tenant: Tenant,
        objective: Objective,
        request_id: str,
        index: int = 0,
        program: str | None = None,
        expected_tokens: int | None = None,
        arrived: float | None = None,
    ) -> AbstractAsyncContextManager[Generation]:
        """One generation; leaving the context aborts it. `arrived`: when its client asked, on the monotonic clock
        (None: now). Raises Unavailable.

        An application of its own, or one more call of `program`, which others of the tenant have named too.
        """
        self.admit()
        spec = TaskSpec(
            task_id=self.dispatcher.new_task_id(),
            app=f"{tenant.id}/{request_id if program is None else program}",
            tenant=tenant.id,
            order=index,
            num_tokens=len(prompt_ids),
            max_tokens=params.sampling.max_tokens,
            objective=objective,
            expected_tokens=expected_tokens,
        )
        work = Work(spec, prompt_ids, params, (Salt(0, tenant.salt),), arrived=arrived)
        if program is not None and "next-use-eviction" not in self.disabled:
            return leased(self.dispatcher, work, self.tokenizer)
        return self.dispatcher.generate(work, self.tokenizer)

    def stories(self, tenant: Tenant, id: str) -> dict[int, tuple[str, ...]]:
        """By the id of a session or a request: what became of its last tasks, and why. Raises NotFound."""
        found = self.dispatcher.stories(tenant.id, id) or self.dispatcher.stories(
            tenant.id, f"{tenant.id}/{id}"
        )
        if not found:
            raise NotFound(f"Nothing is remembered of {id[:140]!r}.", param="id")
        return found

    def _not_ready(self) -> Unavailable:
        if self.failed:
            return Unavailable("No engine is left to answer.", code="no_engine", retry_after=30)
        return Unavailable("The model is still loading; see /health/ready.", code="loading", retry_after=1)

    async def _load(self) -> None:
        try:
            model = self._model = await asyncio.to_thread(resolve_model, self.config)
            self.metrics.model = model.served_names[0]
            self.dispatcher.pool.start(self._engine_configs(model))
            ready = await self.dispatcher.pool.wait_ready()
            if not ready:
                return
            converted = next((engine.tokenizer for engine in ready if engine.tokenizer is not None), None)
            tokenizer = await asyncio.to_thread(Tokenizer.from_folder, model.folder, converted)
            self.admission.open_seats(sum(engine.max_num_seqs for engine in ready))
            limit = min(engine.max_model_len for engine in ready)
            self._model = replace(model, max_model_len=limit)
            self._tokenizer = tokenizer
            log.info("ready: %s, up to %d tokens", ", ".join(model.served_names), limit)
        except (ModelError, PlacementError, TokenizerError) as error:
            log.error("cannot serve: %s", error)
            self.unloadable.set()

    def _engine_configs(self, model: ModelCard) -> list[EngineConfig]:
        config = self.config
        sim = SimConfig(base_ms=config.sim_step_ms, crash_token=config.sim_crash_token)
        if config.engine == "sim":
            sim = msgspec.structs.replace(sim, vocab_size=Tokenizer.from_folder(model.folder).vocab_size)
        return [
            EngineConfig(
                kind=config.engine,
                model=str(model.folder),
                load_format=config.load_format,
                dtype=config.dtype,
                max_model_len=config.max_model_len,
                max_num_seqs=config.max_num_seqs,
                max_num_batched_tokens=config.max_num_batched_tokens,
                block_size=config.block_size,
                kv_cache_memory=config.kv_cache_memory,
                num_threads=config.num_threads,
                device=config.device,
                visible_device=place.visible_device,
                device_sharers=place.sharers,
                gpu_memory_utilization=config.gpu_memory_utilization,
                deterministic=config.deterministic,
                cpu_cores=place.cores,
                seed=config.seed,
                disabled=frozenset(config.disable),
                sim=sim,
                inject_faults=config.inject_faults,
            )
            for place in place_engines(
                config, os.environ.get("CUDA_VISIBLE_DEVICES"), sorted(os.sched_getaffinity(0))
            )
        ]


def _ending() -> Unavailable:
    return Unavailable("The server is shutting down.", code="draining")
