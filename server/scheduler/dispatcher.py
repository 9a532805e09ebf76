"""Carries out what the AppScheduler decides: the only place where its events and actions meet the engines.

Responsible for: one event loop's worth of tasks, from ready to ended; turning placements into engine requests and
engine tokens into text; measuring what a request waited for. Leaves every decision to `AppScheduler`, and every
process to `EnginePool`.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from engine.client import EngineDied
from engine.types import Generate, Objective, Ready, Salt, StepReport, TokenDelta
from server.errors import ApiError, EngineFailed, Unavailable
from server.generation import GenerationParams, TextAssembler, TextDelta
from server.metrics import EngineLoad, Metrics, RequestClock
from server.scheduler import events
from server.scheduler.app_scheduler import AppScheduler
from server.scheduler.engine_pool import EnginePool, PoolListener
from server.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Work:
    """What a task generates from, beside what the scheduler needs to know of it (`spec`)."""

    spec: events.TaskSpec
    token_ids: Sequence[int]
    params: GenerationParams
    salts: tuple[Salt, ...]
    boundaries: tuple[int, ...] = ()


class Generation:
    """A placed task's text, as an async iterator that ends after the delta with a finish_reason."""

    def __init__(
        self, engine_id: int, deltas: AsyncIterator[TokenDelta], assembler: TextAssembler, clock: RequestClock
    ) -> None:
        self.engine_id = engine_id
        self._deltas = deltas
        self._assembler = assembler
        self._clock = clock
        self._ended = False

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> TextDelta:
        while not self._ended:
            delta = await anext(self._deltas)
            text = self._assembler.feed(delta)
            self._clock.tokens(len(delta.token_ids))
            if text is None:
                continue
            if text.finish_reason is not None:
                self._ended = True
                self._clock.finish(text.finish_reason)
            return text
        raise StopAsyncIteration


class Dispatcher:
    """Owns `_waiting`: the tasks that have no engine yet, each with the future of its placement."""

    def __init__(self, scheduler: AppScheduler, metrics: Metrics) -> None:
        self.pool = EnginePool(PoolListener(self._on_up, self._on_down, self._on_report))
        self.num_tasks = 0
        self._scheduler = scheduler
        self._metrics = metrics
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[events.Dispatch]] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    def new_task_id(self) -> int:
        return next(self._ids)

    async def idle(self) -> None:
        """Returns when no task is in flight."""
        await self._idle.wait()

    def reprioritise(self, task_id: int, objective: Objective, group: str | None) -> None:
        self._handle(events.ObjectiveChanged(task_id, objective, group))

    @asynccontextmanager
    async def generate(self, work: Work, tokenizer: Tokenizer) -> AsyncIterator[Generation]:
        """The task's text as it comes. Leaving the context ends the task, wherever it is by then.

        Raises Unavailable when no engine is left to run it, EngineFailed when its engine died.
        """
        task_id = work.spec.task_id
        placed = self._waiting[task_id] = asyncio.get_running_loop().create_future()
        self.num_tasks += 1
        self._idle.clear()
        clock = RequestClock(self._metrics, len(work.token_ids))
        ended: events.Event = events.TaskCancelled(task_id)
        try:
            if self.pool.failed.is_set():
                raise Unavailable("No engine is left.")
            self._handle(events.TaskReady(work.spec))
            dispatch = await placed
            async with self.pool.client(dispatch.engine_id).generate(_request(work, dispatch)) as deltas:
                yield Generation(dispatch.engine_id, deltas, TextAssembler(tokenizer, work.params), clock)
            ended = events.TaskFinished(task_id)
        except EngineDied as error:
            clock.finish("error")
            raise EngineFailed(f"The engine of this request ended: {error}") from error
        except ApiError:
            clock.finish("error")
            raise
        finally:
            clock.finish("abort")
            self._waiting.pop(task_id, None)
            self._handle(ended)
            self.num_tasks -= 1
            if not self.num_tasks:
                self._idle.set()

    def _handle(self, event: events.Event) -> None:
        for action in self._scheduler.handle(event, time.monotonic()):
            match action:
                case events.Dispatch(task_id=task_id):
                    placed = self._waiting.pop(task_id, None)
                    if placed is not None and not placed.done():
                        placed.set_result(action)
                case events.Reprioritise(task_id=task_id, engine_id=engine_id):
                    self.pool.client(engine_id).reprioritise(task_id, action.objective, action.key)
                case events.Abort():
                    pass  # the task's own context has told the engine when it was left

    def _on_up(self, engine_id: int, ready: Ready) -> None:
        self._metrics.engines[engine_id] = EngineLoad(
            ready.block_size, ready.num_blocks, free_blocks=ready.num_blocks
        )
        self._handle(events.EngineUp(engine_id, ready.num_blocks * ready.block_size))

    def _on_down(self, engine_id: int, message: str) -> None:
        self._metrics.engines.pop(engine_id, None)
        self._handle(events.EngineDown(engine_id))
        if self.pool.failed.is_set():
            for placed in self._waiting.values():
                if not placed.done():
                    placed.set_exception(Unavailable(f"No engine is left: {message}"))

    def _on_report(self, engine_id: int, report: StepReport) -> None:
        load = self._metrics.engines[engine_id]
        load.record(report)
        free = report.free_blocks * load.block_size
        self._handle(events.EngineLoad(engine_id, report.num_running, report.num_waiting, free))


def _request(work: Work, dispatch: events.Dispatch) -> Generate:
    return Generate(
        id=work.spec.task_id,
        token_ids=tuple(work.token_ids),
        sampling=work.params.sampling,
        objective=dispatch.objective,
        key=dispatch.key,
        salts=work.salts,
        boundaries=work.boundaries,
    )
