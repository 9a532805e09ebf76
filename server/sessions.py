"""Semantic variables for handlers: sessions, calls, variables, programs.

Responsible for: finding the session a request speaks of (and only its owner's), turning requests into events
and state into answers, waiting, expiry, and programs with their idempotency keys. What a session does with an
event is `server.session`'s, running its tasks `server.session_runner`'s.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Literal

import msgspec

from parrot import wire
from server.errors import ApiError
from server.graph.prepared import MUCH, Applied, of_submit, of_value
from server.graph.transform import TransformError
from server.program import ENDED, Events, Program, Programs, values, watch
from server.session import export, views
from server.session.events import Ending, SessionClosed
from server.session.limits import Limits
from server.session.plan import Environment
from server.session.session import Session
from server.session.store import SessionStore
from server.session_runner import IDLE, SessionRunner
from server.tenant import Tenant

if TYPE_CHECKING:
    from server.service import Service

DEFAULT_WAIT_S = 30.0
PROGRAM_TTL_S = 600.0
"""How long the session of a program stays readable after the program's end."""


class Sessions:
    """Owns the store, the runner of each session, the programs, and the timer of the earliest expiry."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._store = SessionStore(Limits(), self._in_use)
        self._runners: dict[str, SessionRunner] = {}
        self._programs = Programs()
        self._expiry: asyncio.Handle | None = None
        # On the loop's clock; uvloop's handle of what is due at once does not know it.
        self._expires = math.inf

    @property
    def count(self) -> int:
        return len(self._runners)

    async def idle(self) -> None:
        """Returns when no session runs anything."""
        while busy := [runner for runner in self._runners.values() if runner.busy]:
            await asyncio.gather(*(runner.idle() for runner in busy))

    async def close(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        for session_id in list(self._runners):
            self._end(session_id, "has ended with the server")
        await asyncio.sleep(0)

    # Sessions

    def create_session(self, tenant: Tenant, request: wire.SessionRequest) -> wire.SessionInfo:
        self._service.admit()
        self._service.resolve_model(request.model)
        session = Session(
            _new_id("sess"),
            tenant.id,
            time.time(),
            ttl=request.ttl,
            model=request.model,
            metadata=request.metadata,
        )
        self._add(session, tenant)
        return views.session_info(session)

    def list_sessions(self, tenant: Tenant) -> list[wire.SessionInfo]:
        return [views.session_info(session) for session in self._store.owned_by(tenant.id)]

    def get_session(self, tenant: Tenant, session_id: str) -> wire.SessionInfo:
        return views.session_info(self._runner(tenant, session_id).session)

    def delete_session(self, tenant: Tenant, session_id: str) -> None:
        self._runner(tenant, session_id)
        self._store.remove(tenant.id, session_id, time.time())
        self._end(session_id)

    # Calls

    async def transformed(
        self,
        tenant: Tenant,
        session_id: str | None,
        calls: Sequence[wire.Call],
        variables: Mapping[str, str] | None = None,
    ) -> Applied:
        """What a submit of these applies to values that are there, when that is much: on a thread. Nothing where
        the submit would be refused, which it says itself."""
        placeholders = [placeholder for call in calls for placeholder in call.placeholders or ()]
        pipelines = sum(bool(placeholder.transforms) for placeholder in placeholders)
        if not pipelines:
            return {}
        if not session_id:  # it has no other values, so that most programs need not be planned twice
            texts = chain(
                (variables or {}).values(), (placeholder.value or "" for placeholder in placeholders)
            )
            if pipelines * max(map(len, texts), default=0) <= MUCH:
                return {}
        try:
            self._service.admit(tenant, session_id)
            session = (
                self._runner(tenant, session_id).session
                if session_id
                else self._program_session(tenant, None)
            )
            event = session.plan_submit(calls, self._env(), variables=variables)
        except ApiError:
            return {}
        known = session.graph.variables
        applied: dict[tuple[str, str], str | TransformError] = {}
        for pending in (
            of_submit(event.calls, session.values_with(event)),
            *(of_value(known[spec.id], spec.value or "") for spec in event.values),
        ):
            if pending.size > MUCH:
                applied |= await asyncio.to_thread(pending.apply)
        return applied

    def submit(
        self, tenant: Tenant, session_id: str, calls: Sequence[wire.Call], applied: Applied | None = None
    ) -> wire.SubmitAnswer:
        """`applied`: see `transformed`."""
        self._service.admit(tenant, session_id)
        runner = self._runner(tenant, session_id)
        event = runner.session.plan_submit(calls, self._env())
        runner.session.graph.transforms.know(applied or {})
        runner.apply(event)
        return views.submit_answer(event)

    def get_call(self, tenant: Tenant, session_id: str, call_id: str) -> wire.CallInfo:
        return views.call_info(self._runner(tenant, session_id).session.call(call_id))

    def cancel_call(self, tenant: Tenant, session_id: str, call_id: str) -> wire.CallInfo:
        """A call that has ended stays as it was."""
        runner = self._runner(tenant, session_id)
        runner.apply(runner.session.plan_cancel(call_id))
        return views.call_info(runner.session.call(call_id))

    # Variables

    async def prepare_variable(self, tenant: Tenant, session_id: str, ref: str, value: str) -> None:
        """Before `set_variable`: what that applies to the value, when it is much, on a thread."""
        runner = self._runner(tenant, session_id)
        event = runner.session.plan_set(ref, value, self._env())
        if event is not None and not event.created:
            await runner.prepare(of_value(runner.session.graph.variables[event.id], value))

    def set_variable(
        self, tenant: Tenant, session_id: str, ref: str, value: str
    ) -> tuple[wire.VariableInfo, bool]:
        """The variable, and whether it was set by this."""
        runner = self._runner(tenant, session_id)
        event = runner.session.plan_set(ref, value, self._env())
        if event is not None:
            runner.apply(event)
        return views.variable_info(runner.session.variable(ref)), event is not None

    def list_variables(self, tenant: Tenant, session_id: str) -> list[wire.VariableInfo]:
        return views.variable_infos(self._runner(tenant, session_id).session)

    async def get_variable(
        self, tenant: Tenant, session_id: str, ref: str, criteria: wire.Criteria | None, wait: float
    ) -> wire.VariableInfo:
        """The variable as it is when it has ended, or after `wait` seconds."""
        runner = self._runner(tenant, session_id)
        runner.apply(runner.session.plan_get(ref, criteria))
        await self._settled(runner, [ref], wait)
        return views.variable_info(runner.session.variable(ref))

    def look_at_variable(self, tenant: Tenant, session_id: str, ref: str) -> wire.VariableInfo:
        """As it is now, without asking for it."""
        return views.variable_info(self._runner(tenant, session_id).session.variable(ref))

    def stream_variable(
        self,
        tenant: Tenant,
        session_id: str,
        ref: str,
        criteria: wire.Criteria | None,
        wait: float | None = None,
    ) -> AsyncIterator[Events]:
        """Its text as it comes, from the beginning, then ready or failed. `wait`: see `program.watch`."""
        runner = self._runner(tenant, session_id)
        runner.apply(runner.session.plan_get(ref, criteria))
        variable = runner.session.variable(ref)
        return watch(runner, {variable.name or ref: variable.id}, wait=wait)

    async def get_many(self, tenant: Tenant, session_id: str, request: wire.GetRequest) -> wire.ValuesAnswer:
        runner = self._runner(tenant, session_id)
        wanted = request.variables
        criteria = wanted if isinstance(wanted, dict) else dict.fromkeys(wanted)
        for event in [runner.session.plan_get(ref, criterion) for ref, criterion in criteria.items()]:
            runner.apply(event)
        await self._settled(runner, criteria, DEFAULT_WAIT_S if request.wait is None else request.wait)
        return values(runner.session, {ref: ref for ref in criteria})

    def graph(self, tenant: Tenant, session_id: str, form: Literal["json", "dot", "mermaid"]) -> str:
        return export.graph(self._runner(tenant, session_id).session, form)

    def trace(self, tenant: Tenant, session_id: str) -> bytes:
        return export.trace(self._runner(tenant, session_id).session, time.time())

    # Programs

    def start_program(
        self, tenant: Tenant, request: wire.ProgramRequest, key: str | None, applied: Applied | None = None
    ) -> Program:
        """Start a program, or find the one that this key has started. Synchronous: nothing is half done. `applied`:
        see `transformed`."""
        body = msgspec.json.encode(msgspec.structs.replace(request, wait=None, stream=None))
        if (
            key is not None
            and (known := self._programs.by_key(tenant.id, key, body, time.time())) is not None
        ):
            return known
        self._service.admit(tenant, request.session_id)
        self._service.resolve_model(request.model)
        if request.session_id is not None:
            runner = self._runner(tenant, request.session_id)
            event = runner.session.plan_program(request, self._env())
        else:
            session = self._program_session(tenant, request.model)
            event = session.plan_program(request, self._env())
            runner = self._add(session, tenant)
        program = Program(_new_id("prog"), tenant.id, runner, event, time.time())
        self._programs.add(program, key, body)
        if (timeout := self._service.config.request_timeout) is not None:
            runner.limit(program.call_ids, asyncio.get_running_loop().time() + timeout)
        runner.session.graph.transforms.know(applied or {})
        runner.apply(event)
        return program

    def get_program(self, tenant: Tenant, program_id: str) -> Program:
        return self._programs.get(tenant.id, program_id)

    async def program_answer(self, program: Program, wait: float | None) -> wire.ValuesAnswer:
        """What there is when all that was asked for has ended, or after `wait` seconds (None: no limit)."""
        await self._settled(program.runner, program.asked.values(), wait)
        return program.answer()

    def program_events(self, program: Program, wait: float | None) -> AsyncIterator[Events]:
        return program.events(wait)

    def cancel_program(self, program: Program) -> None:
        """Cancel what has not ended of its calls."""
        program.runner.apply(program.runner.session.plan_cancel_all(program.call_ids))

    # Inside

    def _env(self) -> Environment:
        """Raises Unavailable while the engines load."""
        service = self._service
        tokenizer = service.tokenizer
        return Environment(
            new_id=_new_id,
            draw_seed=service.draw_seed,
            render_chat=lambda messages: tokenizer.render_chat(messages, add_generation_prompt=False),
            sampling=service.sampling_model,
            check_model=service.model.check,
            allow_public=service.config.allow_public_prefixes,
        )

    def _program_session(self, tenant: Tenant, model: str | None) -> Session:
        """One of its own for a program, in no store yet."""
        return Session(
            _new_id("sess"), tenant.id, time.time(), ttl=PROGRAM_TTL_S, model=model, evictable=True
        )

    def _add(self, session: Session, tenant: Tenant) -> SessionRunner:
        """Raises TooManyRequests."""
        if (evicted := self._store.make_room(tenant.id, time.time())) is not None:
            self._end(evicted.id, "made room for another one")
        self._store.add(session)
        runner = self._runners[session.id] = SessionRunner(session, tenant, self._service)
        self._expire_at(session.expires_at)
        return runner

    def _in_use(self, session: Session) -> bool:
        return self._runners[session.id].subscriptions.in_use

    def _runner(self, tenant: Tenant, session_id: str) -> SessionRunner:
        """Raises NotFound, also for another's, and Gone for one that was deleted or has expired."""
        return self._runners[self._store.get(tenant.id, session_id, time.time()).id]

    def _expire_at(self, when: float) -> None:
        """One timer, for the earliest; `when` is wall time. A session that is used meanwhile is found alive."""
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, when - time.time())
        if self._expires <= at:
            return
        if self._expiry is not None:
            self._expiry.cancel()
        self._expires, self._expiry = at, loop.call_at(at, self._expire)

    def _expire(self) -> None:
        self._expires, self._expiry = math.inf, None
        for session in self._store.expired(time.time()):
            self._end(session.id, "has expired")
        if (when := self._store.next_expiry(time.time())) is not None:
            self._expire_at(when)

    def _end(self, session_id: str, ending: Ending = "was deleted") -> None:
        """The session is out of the store: cancel all that runs and tell everybody who waits."""
        runner = self._runners.pop(session_id)
        self._programs.session_ended(session_id)
        runner.apply(SessionClosed(ending))
        runner.subscriptions.ring_all()

    async def _settled(self, runner: SessionRunner, refs: Iterable[str], wait: float | None) -> None:
        """Returns when all of them have ended, or after `wait` seconds. Raises Gone when the session ends.

        `wait` None: also when nothing runs any more, because then what is missing has to come from a client.
        """
        session = runner.session
        pending = [v for ref in refs if (v := session.variable(ref)).state not in ENDED]
        with (
            suppress(TimeoutError),
            runner.subscriptions.watch([IDLE, *(v.id for v in pending)]) as subscription,
        ):
            async with asyncio.timeout(wait):
                while any(v.state not in ENDED for v in pending) and (wait is not None or runner.busy):
                    await subscription.wait()
                    session.check_open()


def _new_id(kind: str) -> str:
    """Unguessable: an id is all that a client of the same key needs to reach what it names."""
    return f"{kind}_{secrets.token_hex(12)}"
