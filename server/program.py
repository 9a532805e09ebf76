"""Programs: what one request started, how it is looked at, and how a retry finds it again."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from parrot import wire
from server.errors import NotFound, Unprocessable
from server.graph.call import Call
from server.graph.variable import SemanticVariable
from server.session import views
from server.session.events import CallsSubmitted
from server.session.session import Session
from server.session_runner import IDLE, SessionRunner

KEPT_PROGRAMS = 10_000  # of a tenant, and so are the keys
KEPT_KEYS = 1_000
KEY_TTL_S = 86_400.0

ENDED = frozenset({"ready", "failed", "cancelled"})
"""States in which a variable stays."""

Events = Sequence[wire.ProgramEvent]


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Calls that were submitted together, and the variables that were asked for. Its session holds the state."""

    id: str
    tenant_id: str
    runner: SessionRunner
    submitted: CallsSubmitted
    created: float

    @property
    def session_id(self) -> str:
        return self.runner.session.id

    @property
    def asked(self) -> dict[str, str]:
        """Name to variable id, in the order in which they were asked for."""
        return {asked.name: asked.variable for asked in self.submitted.asked}

    @property
    def call_ids(self) -> list[str]:
        return [call.id for call in self.submitted.calls]

    @property
    def calls(self) -> list[Call]:
        return [self.runner.session.call(id) for id in self.call_ids]

    def usage(self) -> wire.Usage:
        return views.usage(self.calls)

    def answer(self) -> wire.ValuesAnswer:
        """What there is of it right now."""
        now = values(self.runner.session, self.asked)
        return msgspec.structs.replace(now, id=self.id, usage=self.usage(), timing=views.timing(self.calls))

    async def events(self, wait: float | None = None) -> AsyncIterator[Events]:
        """Everything from the beginning, however late the reader comes. `wait`: see `watch`."""
        session, asked = self.runner.session, self.asked
        await asyncio.sleep(0)  # the calls that can begin get to their engines before anything is told
        first: Events = (wire.ProgramCreated(id=self.id, session_id=session.id, variables=self._variables()),)
        async for events in watch(self.runner, asked, self.calls, wait):
            yield (*first, *events)
            first = ()
        now = values(session, asked)
        done = wire.ProgramDone(
            values=now.values, errors=now.errors or {}, pending=now.pending or {}, usage=self.usage()
        )
        yield (done,)

    def _variables(self) -> dict[str, str]:
        """Name to id of all that the program mentions; a variable without a name is its id."""
        bound: list[str] = []
        for call in self.submitted.calls:
            bound += [spec.variable for spec in call.inputs] + [spec.variable for spec in call.outputs]
        session = self.runner.session
        variables = (session.variable(id) for id in dict.fromkeys(bound + list(self.asked.values())))
        return {variable.name or variable.id: variable.id for variable in variables}


async def watch(
    runner: SessionRunner,
    variables: Mapping[str, str],
    calls: Sequence[Call] = (),
    wait: float | None = None,
) -> AsyncIterator[Events]:
    """Deltas and ends of `variables` (name to id), starts and ends of `calls`; at once what there is to tell.

    Ends when all variables have, after `wait` seconds, or (None) when nothing runs any more: what is missing then
    has to come from a client. Raises Gone when the session ends.
    """
    session = runner.session
    reader = _Reader(session, {id: name for name, id in variables.items()}, calls)
    deadline = None if wait is None else asyncio.get_running_loop().time() + wait
    ids = [*variables.values(), *(call.id for call in calls)]
    with runner.subscriptions.watch([IDLE, *ids]) as subscription:
        yield list(reader.read(ids))
        while reader.pending and (wait is not None or runner.busy):
            try:
                async with asyncio.timeout_at(deadline):
                    changed = await subscription.wait()
            except TimeoutError:
                break
            yield list(reader.read(changed))
            session.check_open()
    yield [
        wire.VariablePending(name=name, pending=_pending(session.variable(id)))
        for name, id in variables.items()
        if id in reader.pending
    ]


class _Reader:
    """What a stream has told so far, and what there is to tell of ids that have changed."""

    def __init__(self, session: Session, names: Mapping[str, str], calls: Sequence[Call]) -> None:
        self._session = session
        self._names = names
        self._calls = {call.id: call for call in calls}
        self._producers = {spec.variable: call.id for call in calls for spec in call.spec.outputs}
        self._started: set[str] = set()
        self._told: dict[str, int] = dict.fromkeys(names, 0)
        self.pending = set(names)

    def read(self, ids: Iterable[str]) -> Iterator[wire.ProgramEvent]:
        """Call by call in the order in which they started: its start, its outputs' texts and ends, its end."""
        changed = {self._producers.get(id, id) for id in ids}
        calls = [self._calls[id] for id in changed if id in self._calls]
        for id in changed - self._calls.keys():
            yield from self._variable(id)
        for call in sorted(calls, key=_start):
            yield from self._call(call)

    def _call(self, call: Call) -> Iterator[wire.ProgramEvent]:
        if call.id not in self._started and call.tasks[0].progress.started is not None:
            self._started.add(call.id)
            yield wire.CallStarted(id=call.id)
        for spec in call.spec.outputs:
            yield from self._variable(spec.variable)
        if call.state in ("done", "failed", "cancelled"):
            del self._calls[call.id]
            yield wire.CallFinished(id=call.id, state=call.state)

    def _variable(self, id: str) -> Iterator[wire.ProgramEvent]:
        if id not in self.pending:
            return
        variable, name = self._session.variable(id), self._names[id]
        if variable.is_streamed and (text := variable.since(self._told[id])):
            self._told[id] += len(text)
            yield wire.VariableDelta(name=name, delta=text)
        if variable.state not in ENDED:
            return
        self.pending.discard(id)
        if variable.state == "ready":
            yield wire.VariableReady(name=name, value=variable.value or "")
        else:
            error = views.error_of(variable)
            assert error is not None, "a variable that has failed says why"
            yield wire.VariableFailed(name=name, error=error)


def _start(call: Call) -> float:
    started = call.tasks[0].progress.started
    return math.inf if started is None else started


def _pending(variable: SemanticVariable) -> wire.Pending:
    return wire.Pending(id=variable.id, state=variable.state, reason=views.reason(variable) or "")


def values(session: Session, asked: Mapping[str, str]) -> wire.ValuesAnswer:
    """What there is of `asked` (name to variable id or name) right now."""
    variables = {name: session.variable(ref) for name, ref in asked.items()}
    ready = {name: v.value or "" for name, v in variables.items() if v.state == "ready"}
    errors = {
        name: error
        for name, v in variables.items()
        if (error := views.error_of(v, views.LISTED_CAUSES)) is not None
    }
    pending = {name: _pending(v) for name, v in variables.items() if v.state not in ENDED}
    status, reason = _outcome(errors, pending)
    return wire.ValuesAnswer(
        session_id=session.id,
        values=ready,
        errors=errors or None,
        pending=pending or None,
        status=status,
        error=reason,
    )


def _outcome(
    errors: Mapping[str, wire.VariableError], pending: Collection[str]
) -> tuple[wire.ProgramStatus, wire.ErrorInfo | None]:
    if pending:
        return "running", None
    if not errors:
        return "done", None
    name, first = next(iter(errors.items()))
    cancelled = all(error.code == "cancelled" for error in errors.values())
    info = wire.ErrorInfo(message=f"{name}: {first.message}", type=first.type, param=name, code=first.code)
    return "cancelled" if cancelled else "failed", info


@dataclass(frozen=True, slots=True)
class _Keyed:
    program: Program
    body_digest: bytes
    expires_at: float


class Programs:
    """Owns the programs by id and by idempotency key. Each tenant has its own bounds and loses its oldest first."""

    def __init__(self) -> None:
        self._by_id: defaultdict[str, OrderedDict[str, Program]] = defaultdict(OrderedDict)
        self._by_key: defaultdict[str, OrderedDict[str, _Keyed]] = defaultdict(OrderedDict)
        self._by_session: defaultdict[str, list[Program]] = defaultdict(list)

    def add(self, program: Program, key: str | None, body: bytes) -> None:
        programs = self._by_id[program.tenant_id]
        programs[program.id] = program
        self._by_session[program.session_id].append(program)
        if len(programs) > KEPT_PROGRAMS:
            programs.popitem(last=False)
        if key is not None:
            keyed = self._by_key[program.tenant_id]
            keyed.pop(key, None)  # it had expired, and what is new stands behind what is older
            keyed[key] = _Keyed(program, _digest(body), program.created + KEY_TTL_S)
            while len(keyed) > KEPT_KEYS or next(iter(keyed.values())).expires_at <= program.created:
                keyed.popitem(last=False)

    def session_ended(self, session_id: str) -> None:
        """Forget its programs, because they hold all of its state; a retry with a key still finds its answer."""
        for program in self._by_session.pop(session_id, ()):
            self._by_id[program.tenant_id].pop(program.id, None)

    def get(self, tenant_id: str, program_id: str) -> Program:
        """Raises NotFound, also for another tenant's."""
        program = self._by_id[tenant_id].get(program_id)
        if program is None:
            raise NotFound(f"There is no program {program_id!r}.", param="id")
        return program

    def by_key(self, tenant_id: str, key: str, body: bytes, now: float) -> Program | None:
        """The program that this key has started. Raises Unprocessable when it was started by another body."""
        keyed = self._by_key[tenant_id].get(key)
        if keyed is None or keyed.expires_at <= now:
            return None
        if keyed.body_digest != _digest(body):
            raise Unprocessable(
                "This Idempotency-Key was used with another body.", param="Idempotency-Key", code="key_reused"
            )
        return keyed.program


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()
