"""Runs one session: what `Session.apply` says is ready goes to the engines, what comes back goes to `apply`.

Responsible for: one asyncio task per running task of the session, and waking who waits for its variables. A submit
mutates the session synchronously, first to last; only tokenising and generating are awaited. Every task that is
started here ends as TaskFinished, as TaskFailed, or because the session said that it is aborted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec

from engine.types import Salt
from server import eager_prefill, foresight, logs
from server.call_cache import CallCache, Flight, key_of
from server.errors import ApiError, BadRequest, DeadlineExceeded
from server.generation import GenerationParams, TextDelta
from server.graph import prefix, prepared
from server.graph.objective import strictest
from server.graph.prepared import Pending
from server.scheduler.dispatcher import Work
from server.scheduler.events import TaskSpec
from server.session.events import (
    CallsSubmitted,
    Effects,
    SessionClosed,
    SessionEvent,
    TaskFailed,
    TaskFinished,
    TaskOutput,
    TaskStarted,
)
from server.session.session import Session
from server.subscription import Subscriptions
from server.tenant import Tenant
from server.tokenizer import LONG_TEXT

if TYPE_CHECKING:
    from server.graph.call import Task

log = logging.getLogger(__name__)

IDLE = ""
"""Rung in a session's subscriptions when nothing of it runs any more; no variable or call has this id."""


class Host(eager_prefill.Host, foresight.Host, Protocol):
    """What a runner and its parts need of the server around them."""

    @property
    def calls(self) -> CallCache | None: ...


@dataclass(slots=True)
class _Running:
    job: asyncio.Task[None]
    number: int  # the dispatcher's


@dataclass(slots=True)
class _Output:
    """What a generation has given so far. `shown`: characters that readers have seen, in this life or another.

    `engine_id`: where it ran, if it did and was not read along.
    """

    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    cached_tokens: int = 0
    truncated: bool = False
    length: int = 0
    shown: int = 0
    engine_id: int | None = None
    queue_ms: float | None = None

    def restart(self) -> None:
        """It is generated from the beginning once more, and will come to the same."""
        self.text, self.token_ids, self.length = [], [], 0

    def add(self, delta: TextDelta) -> str:
        """The part of its text that has not been shown yet."""
        self.text.append(delta.text)
        self.token_ids += delta.token_ids
        self.cached_tokens = delta.cached_tokens
        self.truncated = isinstance(delta.stop_reason, str)
        self.length += len(delta.text)
        unseen = self.length - self.shown
        if unseen <= 0:
            return ""
        self.shown = self.length
        return delta.text[-unseen:]

    def finished(self, task: Task, work: Work, cached_tokens: int | None = None) -> TaskFinished:
        return TaskFinished(
            task.id,
            text="".join(self.text),
            token_ids=tuple(self.token_ids),
            truncated=self.truncated,
            prompt_tokens=len(work.token_ids),
            completion_tokens=len(self.token_ids),
            cached_tokens=self.cached_tokens if cached_tokens is None else cached_tokens,
            queue_ms=self.queue_ms,
        )


class SessionRunner:
    """Owns the running tasks and the subscriptions of one session."""

    def __init__(self, session: Session, tenant: Tenant, host: Host) -> None:
        self.session = session
        self.tenant = tenant
        self.subscriptions = Subscriptions()
        self._host = host
        self._foresight = foresight.Foresight(session, tenant, host)
        self._eager = eager_prefill.EagerPrefill(session, tenant, host, self._foresight.home)
        self._looking: asyncio.Handle | None = None
        self._running: dict[str, _Running] = {}
        self._deadlines: dict[str, float] = {}

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def apply(self, event: SessionEvent) -> Effects:
        """The session's door, and all that follows from it. Synchronous."""
        effects = self.session.apply(event, time.time())
        if isinstance(event, CallsSubmitted):
            self._foresight.submitted(event)
            self._eager.submitted(event)
        self._foresight.changed(effects)
        if self._eager.changed(effects) and self._looking is None:
            loop = asyncio.get_running_loop()
            self._looking = loop.call_later(eager_prefill.DELAY_S, self._look_ahead)
        for task in effects.aborted:
            if (running := self._running.pop(task.id, None)) is not None:
                running.job.cancel()
        for task in effects.ready:
            self._start(task)
        if effects.aborted and not self._running:
            self.subscriptions.ring((IDLE,))
        for task in effects.reprioritised:
            if (running := self._running.get(task.id)) is not None:
                self._host.dispatcher.reprioritise(running.number, task.objective, task.group)
        if isinstance(event, SessionClosed):
            self._foresight.closed()
            self._eager.closed()
        self.subscriptions.ring(effects.changed)
        return effects

    def _look_ahead(self) -> None:
        self._looking = None
        self._eager.look()

    def limit(self, call_ids: Iterable[str], deadline: float) -> None:
        """What has not ended of these calls at `deadline`, on the loop's clock, fails. Before they start."""
        self._deadlines.update(dict.fromkeys(call_ids, deadline))

    async def idle(self) -> None:
        """Returns when nothing runs any more; what ends may have started something else."""
        while self._running:
            await asyncio.wait([running.job for running in self._running.values()])

    def _start(self, task: Task) -> None:
        number = self._host.dispatcher.new_task_id()
        job = asyncio.create_task(self._run(task, number), name=f"task {task.id}")
        self._running[task.id] = _Running(job, number)

    async def _run(self, task: Task, number: int) -> None:
        event: SessionEvent
        output, context = _Output(), None
        logs.SESSION_ID.set(self.session.id)
        logs.CALL_ID.set(task.call.id)
        try:
            async with self._in_time(task):
                context = await self._context(task)
                event = await self._generate(task, self._work(task, number, context), output)
            await self.prepare(prepared.of_output(task, event.text))
        except ApiError as error:
            event = TaskFailed(
                task.id, error.info.message, error.info.code or "engine_error", error.info.type
            )
        except Exception:
            log.exception("task %s failed", task.id)
            event = TaskFailed(task.id, "Internal server error.", "internal_error")
        finally:
            # Before its end is told: whoever is woken by it sees whether anything still runs.
            self._running.pop(task.id, None)
        if output.engine_id is not None:
            self._eager.started(task, output.cached_tokens)
        self.apply(event)
        if context is not None and output.engine_id is not None and isinstance(event, TaskFinished):
            self._foresight.generated(task, context, (output.engine_id, number), len(output.token_ids))
        if not self._running:
            self.subscriptions.ring((IDLE,))

    @asynccontextmanager
    async def _in_time(self, task: Task) -> AsyncIterator[None]:
        """Raises DeadlineExceeded in the task when its program has taken too long."""
        limit = asyncio.timeout_at(self._deadlines.get(task.call.id))
        try:
            async with limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise DeadlineExceeded("Its program was not complete in time (--request-timeout).") from error

    async def prepare(self, pending: Pending) -> None:
        """What the next event will apply to texts, when that is much: on a thread."""
        if pending.size > prepared.MUCH:
            self.session.graph.transforms.know(await asyncio.to_thread(pending.apply))

    async def _context(self, task: Task) -> prefix.Context:
        """Raises BadRequest, before it is tokenised, when the text can by no means fit."""
        limit = self._host.max_model_len
        if task.context_size() > limit * self._host.tokenizer.longest_token:
            raise BadRequest(
                f"The prompt's {task.context_size()} characters are more than {limit} tokens can hold.",
                param="prompt",
                code="context_length_exceeded",
            )
        spec = task.call.spec
        encode = partial(
            prefix.canonical,
            task.context(),
            self._host.tokenizer,
            chat=spec.chat,
            public=spec.share == "public",
        )
        return encode() if task.context_size() < LONG_TEXT else await asyncio.to_thread(encode)

    def _work(self, task: Task, number: int, context: prefix.Context) -> Work:
        """Raises BadRequest when the context has no room for the output."""
        length = len(context.token_ids)
        params = _fitted(task.params, length, self._host.max_model_len)
        spec = TaskSpec(
            task_id=number,
            app=self.session.id,
            tenant=self.tenant.id,
            order=task.order,
            num_tokens=length,
            max_tokens=params.sampling.max_tokens,
            objective=task.objective,
            group=task.group,
            group_size=task.demand.group_size,
            expected_tokens=min(self._foresight.at_most(task), params.sampling.max_tokens),
            remaining_steps=self._foresight.remaining,
            following_steps=self._foresight.following(task),
            age_s=max(0.0, time.time() - task.call.created),
            ahead=self._eager.ahead(task),
            prefix_hashes=prefix.prefix_hashes(context, self.tenant.salt),
            prefix_tokens=context.boundaries,
        )
        salts, followed = self._salts(context), task.is_followed
        return Work(spec, context.token_ids, params, salts, context.boundaries, followed=followed)

    def _salts(self, context: prefix.Context) -> tuple[Salt, ...]:
        """A public call shares its leading constant with everybody, what follows with its tenant."""
        if context.leading:
            return (Salt(0, prefix.PUBLIC_SALT), Salt(context.leading, self.tenant.salt))
        return (Salt(0, self.tenant.salt),)

    async def _generate(self, task: Task, work: Work, output: _Output) -> TaskFinished:
        """Lead, or follow who generates the very same; lead when that one has gone."""
        calls = self._host.calls
        key = key_of(self.tenant, work.token_ids, work.params) if calls is not None else None
        while calls is not None and key is not None:
            flight = calls.find(key)
            if flight is None:
                with calls.lead(key, work.spec.task_id, task.objective) as flight:
                    await self._lead(task, work, output, flight)
                return output.finished(task, work)
            await self._follow(task, output, flight)
            if flight.ended:
                return output.finished(task, work, cached_tokens=len(work.token_ids))
        await self._lead(task, work, output, None)
        return output.finished(task, work)

    async def _lead(self, task: Task, work: Work, output: _Output, flight: Flight | None) -> None:
        def take(delta: TextDelta) -> bool:
            self._show(task, output, delta)
            if flight is not None:
                flight.add(delta)
            return True

        output.restart()
        async with self._host.dispatcher.generate(work, self._host.tokenizer) as generation:
            why = self._host.dispatcher.why(work.spec.task_id)
            self.apply(TaskStarted(task.id, generation.engine_id, why))
            generation.tap(take)
            async for delta in generation:
                take(delta)
            output.engine_id, output.queue_ms = generation.engine_id, generation.queue_ms

    async def _follow(self, task: Task, output: _Output, flight: Flight) -> None:
        """Read along. The flight runs for the strictest of those who read it."""
        output.restart()
        objective = strictest(flight.objective, task.objective)
        if objective != flight.objective:
            flight.objective = objective
            self._host.dispatcher.reprioritise(flight.number, objective, task.group)
        self.apply(TaskStarted(task.id))
        async for delta in flight.read():
            self._show(task, output, delta)

    def _show(self, task: Task, output: _Output, delta: TextDelta) -> None:
        if text := output.add(delta):
            self.apply(TaskOutput(task.id, text))


def _fitted(params: GenerationParams, length: int, limit: int) -> GenerationParams:
    """`params` for a prompt of `length` tokens in a context of `limit`. Raises BadRequest."""
    wanted = params.sampling.max_tokens
    if not length:
        raise BadRequest("The prompt has no tokens.", param="prompt", code="empty_prompt")
    if length + wanted <= limit:
        return params
    if params.fit and length < limit:
        return replace(params, sampling=msgspec.structs.replace(params.sampling, max_tokens=limit - length))
    asked = "" if params.fit else f" and {wanted} of the output (max_tokens)"
    raise BadRequest(
        f"The model's context is {limit} tokens: {length} of the prompt{asked} are too many.",
        param="max_tokens" if length < limit else "prompt",
        code="context_length_exceeded",
    )
