"""Carries out what the AppScheduler decides: the only place where its events and actions meet the engines.

Responsible for: one event loop's worth of tasks, from ready to ended; telling each its place, and whom the death of
an engine may be blamed on. Leaves every decision about places to `AppScheduler`, every process to `EnginePool`, and
what a task does with its place to `lives.Generation`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from engine.types import Objective, Ready, Salt, StepReport, Warm
from server.admission import Admission
from server.errors import ApiError, DeadlineExceeded, Unavailable
from server.generation import TextAssembler
from server.metrics import EngineLoad, Metrics, RequestClock
from server.scheduler import events
from server.scheduler.app_scheduler import AppScheduler
from server.scheduler.calibration import StepModel
from server.scheduler.engine_pool import EnginePool, PoolListener
from server.scheduler.lives import Generation, Work
from server.scheduler.warming import Warming
from server.tokenizer import Tokenizer

__all__ = ["Dispatcher", "Generation", "Work"]

log = logging.getLogger(__name__)

MAX_APPS_TOLD = 1000
MAX_TASKS_TOLD = 200
"""Of one application. AppScheduler remembers the stories of a thousand tasks that have ended."""


class Dispatcher:
    """Owns the generations that are in flight, by task id."""

    def __init__(
        self,
        scheduler: AppScheduler,
        metrics: Metrics,
        admission: Admission,
        *,
        step_timeout_s: float,
        request_timeout_s: float | None = None,
    ) -> None:
        self.pool = EnginePool(PoolListener(self._on_up, self._on_down, self._on_report), step_timeout_s)
        self._scheduler = scheduler
        self._metrics = metrics
        self._admission = admission
        self._request_timeout = request_timeout_s
        self._ids = itertools.count(1)
        self._live: dict[int, Generation] = {}
        self._trial = asyncio.Lock()
        self._recent: OrderedDict[tuple[str, str], deque[int]] = OrderedDict()
        self._warming = Warming(metrics)
        self._resuming: asyncio.Handle | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def num_tasks(self) -> int:
        return len(self._live)

    def new_task_id(self) -> int:
        return next(self._ids)

    async def idle(self) -> None:
        """Returns when no task is in flight."""
        await self._idle.wait()

    def end(self, error: Callable[[], ApiError]) -> None:
        """What is in flight is placed nowhere any more: when its engine has gone, it raises an error of its own."""
        for generation in self._live.values():
            generation.fail(error())

    def stories(self, tenant: str, app: str) -> dict[int, tuple[str, ...]]:
        """What happened to the last tasks of an application, as far as it is remembered; by task id."""
        told = {id: self._scheduler.story(id) for id in self._recent.get((tenant, app), ())}
        return {id: lines for id, lines in told.items() if lines}

    def why(self, task_id: int) -> str | None:
        """Why it is where it is."""
        return self._scheduler.why(task_id)

    def reprioritise(self, task_id: int, objective: Objective, group: str | None) -> None:
        self._handle(events.ObjectiveChanged(task_id, objective, group))

    def warm(
        self, app: str, token_ids: tuple[int, ...], salts: tuple[Salt, ...], home: int | None
    ) -> int | None:
        """Compute the KV of these ids when there is nothing better to do. None: nobody has time for it. `home`: the
        engine that has the beginning of them; None: none has."""
        engine_id = self._scheduler.place_ahead(app, home)
        if engine_id is None:
            return None
        request_id = self.new_task_id()
        self.pool.warm(engine_id, Warm(request_id, token_ids, salts=salts))
        self._warming.asked(request_id, engine_id, len(token_ids))
        return request_id

    def cool(self, request_id: int) -> None:
        """It is of no more use."""
        if (engine_id := self._warming.where(request_id)) is not None:
            self.pool.abort(engine_id, request_id)
            self._warming.called_off(request_id)

    def ahead(self, request_ids: Iterable[int]) -> tuple[int, int] | None:
        """Of these that were asked for: the engine that has the most, and how many tokens."""
        return self._warming.ahead(request_ids)

    def warmed(self, request_ids: Iterable[int], cached_tokens: int) -> None:
        """Whom it was for has run, and found so many tokens of its prompt; or never will."""
        self._metrics.eager_tokens_used += self._warming.used(request_ids, cached_tokens)

    @asynccontextmanager
    async def generate(self, work: Work, tokenizer: Tokenizer) -> AsyncIterator[Generation]:
        """The task's text as it comes. Leaving the context ends the task, wherever it is by then.

        Raises Unavailable when no engine is left to run it, EngineFailed when engines die of it, DeadlineExceeded
        when the context is open for too long; also from the iterator.
        """
        spec = work.spec
        clock = RequestClock(self._metrics, self._admission, spec, work.arrived)
        assembler = TextAssembler(tokenizer, work.params)
        generation = self._live[spec.task_id] = Generation(
            work, self.pool, self._trial, assembler, clock, self._on_start
        )
        self._idle.clear()
        self._remember(spec)
        ended: events.Event = events.TaskCancelled(spec.task_id)
        deadline = asyncio.timeout(self._request_timeout)
        try:
            async with deadline:
                if self.pool.failed:
                    raise _no_engine("")
                self._handle(events.TaskReady(spec))
                await generation.open()
                yield generation
            ended = events.TaskFinished(spec.task_id)
        except ApiError:
            clock.finish("error")
            raise
        except TimeoutError as error:
            clock.finish("error")
            if not deadline.expired():
                raise
            raise DeadlineExceeded(
                f"It was not complete after {self._request_timeout:g} s (--request-timeout)."
            ) from error
        finally:
            clock.finish("abort")
            del self._live[spec.task_id]
            await generation.close()
            self._handle(ended)
            if not self._live:
                self._idle.set()

    def _remember(self, spec: events.TaskSpec) -> None:
        key = (spec.tenant, spec.app)
        tasks = self._recent.get(key)
        if tasks is None:
            tasks = self._recent[key] = deque(maxlen=MAX_TASKS_TOLD)
            if len(self._recent) > MAX_APPS_TOLD:
                self._recent.popitem(last=False)
        tasks.append(spec.task_id)

    def _handle(self, event: events.Event) -> None:
        for action in self._scheduler.handle(event, time.monotonic()):
            match action:
                case events.Dispatch(task_id=task_id):
                    if (generation := self._live.get(task_id)) is not None:
                        generation.place(action)
                case events.Reprioritise(task_id=task_id, engine_id=engine_id):
                    if (generation := self._live.get(task_id)) is not None:
                        generation.reprioritise(action.objective, action.key)
                    self.pool.client(engine_id).reprioritise(task_id, action.objective, action.key)
                case events.Abort():
                    pass  # the task's own context has told the engine when it was left
        if self._scheduler.has_more and self._resuming is None:
            self._resuming = asyncio.get_running_loop().call_soon(self._resume)

    def _resume(self) -> None:
        self._resuming = None
        self._handle(events.Resume())

    def _on_start(self, task_id: int) -> None:
        self._handle(events.TaskStarted(task_id))

    def _on_up(self, engine_id: int, ready: Ready) -> None:
        load = self._metrics.engines.setdefault(engine_id, EngineLoad())
        load.start(ready)
        self._handle(_engine_up(engine_id, ready))

    def _on_down(self, engine_id: int, message: str) -> None:
        if (load := self._metrics.engines.get(engine_id)) is not None:
            load.stop()
        self._blame(engine_id, message)
        self._warming.engine_down(engine_id)
        self._handle(events.EngineDown(engine_id))
        if self.pool.failed:
            for generation in self._live.values():
                generation.fail(_no_engine(message))

    def _blame(self, engine_id: int, message: str) -> None:
        """Those that may have been in its last step: it takes so many, the first of its queue."""
        ready = self.pool.states[engine_id].ready
        if ready is None:
            return
        there = [generation for generation in self._live.values() if generation.was_on(engine_id)]
        there.sort(key=lambda generation: generation.key)
        for generation in there[: ready.max_num_seqs]:
            generation.strike(message)
        for generation in there:
            generation.displace()
        if there:
            log.warning("engine %d: its %d requests are placed again", engine_id, len(there))

    def _on_report(self, engine_id: int, report: StepReport) -> None:
        load = self._metrics.engines[engine_id]
        load.record(report)
        self._warming.report(report.deltas)
        if report.step_times is not None and (ready := self.pool.states[engine_id].ready) is not None:
            self._handle(_engine_up(engine_id, ready, StepModel(*report.step_times)))
        free = report.free_blocks * load.block_size
        self._handle(events.EngineLoad(engine_id, report.num_running, report.num_waiting, free))


def _engine_up(engine_id: int, ready: Ready, calibration: StepModel | None = None) -> events.EngineUp:
    capacity = ready.num_blocks * ready.block_size
    return events.EngineUp(engine_id, capacity, ready.max_num_seqs, calibration)


def _no_engine(message: str) -> Unavailable:
    why = f": {message}" if message else "."
    return Unavailable(f"No engine is left to answer{why}", code="no_engine", retry_after=30)
