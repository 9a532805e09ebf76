"""One client's program: its variables and calls behind a single door.

Responsible for: turning requests into valid events (`plan_*`, which change nothing and raise ApiError) and
events into effects (`apply`, which never fails). Pure: no clock, no await, no randomness; the service passes
those in, carries out the effects, and may keep the events in a journal. An event has to be applied before the
next one is planned.

Leaves to others: views of the state (`session.views`), running tasks (`service`), order among sessions
(`scheduler`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from parrot import wire
from server.errors import BadRequest, Gone, NotFound, TooLarge
from server.graph import invariants, objective
from server.graph.call import Call, Task, VariableSpec
from server.graph.changes import Changes
from server.graph.dag import ID_PREFIX, CallGraph
from server.graph.order import Orders
from server.graph.prefix import Kept
from server.graph.variable import SemanticVariable
from server.session.bindings import Bindings, check_assignable, check_name, check_size
from server.session.events import (
    CallsCancelled,
    CallsSubmitted,
    Effects,
    Ending,
    ObjectiveRequested,
    SessionClosed,
    SessionEvent,
    TaskFailed,
    TaskFinished,
    TaskOutput,
    TaskStarted,
    VariableSet,
)
from server.session.limits import Limits
from server.session.plan import Draft, Environment, Wanted

DEFAULT_TTL = 3600.0
MAX_METADATA = 16


class Session:
    """Owns its graph. `tenant` is the owner's id; only `apply` and `touch` change anything."""

    def __init__(
        self,
        id: str,
        tenant: str,
        now: float,
        *,
        ttl: float | None = None,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        evictable: bool = False,
    ) -> None:
        """Raises BadRequest that names `ttl` or `metadata`. `evictable`: it may end when others need room."""
        self.limits = limits or Limits()
        self.ttl = DEFAULT_TTL if ttl is None else ttl
        if not 0 < self.ttl <= self.limits.max_ttl:
            raise BadRequest(f"ttl must be above 0 and at most {self.limits.max_ttl:g} seconds.", param="ttl")
        self.id = id
        self.tenant = tenant
        self.model = model
        self.metadata = dict(metadata or {})
        if len(self.metadata) > MAX_METADATA or not all(map(_is_small, self.metadata.items())):
            raise BadRequest(
                f"metadata may have {MAX_METADATA} entries, keys of 64 and values of 512 characters.",
                param="metadata",
            )
        self.created_at = now
        self.touched_at = now
        self.evictable = evictable
        self.ending: Ending | None = None
        self.graph = CallGraph(max_context=self.limits.context, max_size=self.limits.size)

    @property
    def expires_at(self) -> float:
        """A session lives for its ttl after it was last used."""
        return self.touched_at + self.ttl

    @property
    def closed(self) -> bool:
        return self.ending is not None

    @property
    def is_running(self) -> bool:
        """Whether an engine works for it, or is about to."""
        return any(task.state in ("ready", "running") for task in self.graph.tasks.values())

    def touch(self, now: float) -> None:
        self.touched_at = max(self.touched_at, now)

    # Planning: wire shapes in, an event out, nothing changed.

    def plan_submit(
        self,
        calls: Sequence[wire.Call],
        environment: Environment,
        *,
        variables: Mapping[str, str] | None = None,
        get: Wanted | None = None,
    ) -> CallsSubmitted:
        """Raises ApiError; then nothing of the submit is kept."""
        draft = self._draft(calls, environment, variables, None)
        return draft.event(draft.ask(get or (), "get"))

    def values_with(self, event: CallsSubmitted) -> dict[str, str]:
        """By id: of the variables that its calls read, those that have a value once it is applied."""
        values = {spec.id: spec.value for spec in (*event.variables, *event.values) if spec.value is not None}
        for id in {item.variable for call in event.calls for item in call.inputs}:
            variable = self.graph.variables.get(id)
            if variable is not None and variable.value is not None:
                values[id] = variable.value
        return values

    def plan_program(self, request: wire.ProgramRequest, environment: Environment) -> CallsSubmitted:
        """`get` absent: every output that nothing consumes, for latency. Raises ApiError."""
        draft = self._draft(request.calls, environment, request.variables, request.model)
        asked = draft.ask_for_the_rest() if request.get is None else draft.ask(request.get, "get")
        return draft.event(asked)

    def plan_set(self, ref: str, value: str, environment: Environment) -> VariableSet | None:
        """None: the variable has this very value. Raises NotFound (an id), BadRequest, Conflict, TooLarge."""
        self.check_open()
        check_size(value, self.limits, "value")
        if self.graph.size + len(value) > self.limits.size:
            raise TooLarge(f"A session may hold at most {self.limits.size} characters.", param="value")
        variable = self.graph.variable(ref) if ref.startswith(ID_PREFIX) else self.graph.find(ref)
        if variable is not None:
            if not check_assignable(variable, value, "variable"):
                return None
            return VariableSet(variable.id, variable.name, value)
        check_name(ref, "variable")
        if len(self.graph.variables) >= self.limits.variables:
            raise TooLarge(f"A session may have at most {self.limits.variables} variables.", param="variable")
        return VariableSet(environment.new_id("var"), ref, value, created=True)

    def plan_get(
        self, ref: str, criteria: wire.Criteria | None, *, param: str = "criteria"
    ) -> ObjectiveRequested:
        """Raises NotFound, and BadRequest for wrong criteria."""
        self.check_open()
        return ObjectiveRequested(self.graph.variable(ref).id, objective.parse(criteria, param=param))

    def plan_cancel(self, call_id: str) -> CallsCancelled:
        """Also of a call that has ended, which changes nothing. Raises NotFound."""
        return self.plan_cancel_all([call_id])

    def plan_cancel_all(self, call_ids: Iterable[str]) -> CallsCancelled:
        """As `plan_cancel`, for calls that belong together: they are all cancelled, none because of another."""
        return CallsCancelled(tuple(self.call(call_id).id for call_id in call_ids))

    def apply(self, event: SessionEvent, now: float) -> Effects:
        """The only door. What comes too late, because its task has ended, has no effect."""
        self.touch(now)
        if self.closed:
            return Effects()
        changes = self._changes(event, now)
        self.graph.transforms.forget()
        return _effects(changes)

    def variable(self, ref: str) -> SemanticVariable:
        """By name or id. Raises NotFound."""
        return self.graph.variable(ref)

    def call(self, call_id: str) -> Call:
        """Raises NotFound."""
        found = self.graph.calls.get(call_id)
        if found is None:
            raise NotFound(f"The session has no call {call_id[:140]!r}.", param="call")
        return found

    def task(self, task_id: str) -> Task:
        """Raises KeyError: ids of tasks come from effects, not from clients."""
        return self.graph.tasks[task_id]

    def check_open(self) -> None:
        """Raises Gone that says how the session ended."""
        if self.ending is not None:
            raise Gone(f"The session {self.id} {self.ending}.", param="session_id")

    def check_invariants(self) -> None:
        """Raises AssertionError."""
        invariants.check(self.graph)

    def _changes(self, event: SessionEvent, now: float) -> Changes:
        graph = self.graph
        match event:
            case TaskOutput():
                return graph.grow(event.task, event.text)
            case TaskStarted():
                return graph.start(event.task, event.engine, now, event.reason)
            case TaskFinished():
                kept = Kept(event.token_ids, event.text, event.truncated)
                return graph.finish(event.task, kept, _usage(event), now, event.queue_ms)
            case TaskFailed():
                return graph.fail(event.task, event.message, event.code, event.kind, now)
            case CallsSubmitted():
                return self._submit(event, now)
            case VariableSet():
                return graph.set(VariableSpec(event.id, event.name, event.value), now)
            case ObjectiveRequested():
                return graph.request(event.variable, event.objective)
            case CallsCancelled():
                return graph.cancel(map(graph.calls.__getitem__, event.calls), "the call was cancelled", now)
            case SessionClosed():
                self.ending = event.reason
                return graph.close(f"the session {event.reason}", now)

    def _submit(self, event: CallsSubmitted, now: float) -> Changes:
        changes = self.graph.add(event.variables, event.calls, Orders(event.orders, event.moved), now)
        for spec in event.values:
            changes.join(self.graph.set(spec, now))
        for asked in event.asked:
            changes.join(self.graph.request(asked.variable, asked.objective))
        # They run for the first time: whoever runs them sees what they are urgent for.
        for task in changes.ready:
            changes.reprioritised.pop(task, None)
        return changes

    def _draft(
        self,
        calls: Sequence[wire.Call],
        environment: Environment,
        variables: Mapping[str, str] | None,
        model: str | None,
    ) -> Draft:
        self.check_open()
        bindings = Bindings(self.graph, self.limits, environment.new_id)
        for name, value in (variables or {}).items():
            bindings.give(name, value, f"variables.{name[:140]}")
        draft = Draft(self.graph, self.limits, environment, bindings)
        draft.submit(calls, model or self.model)
        return draft


def _is_small(entry: tuple[str, str]) -> bool:
    key, value = entry
    return len(key) <= 64 and len(value) <= 512


def _effects(changes: Changes) -> Effects:
    return Effects(
        ready=tuple(sorted(changes.ready, key=lambda task: task.order)),
        aborted=tuple(changes.aborted),
        reprioritised=tuple(changes.reprioritised),
        variables=tuple(changes.variables),
        calls_started=tuple(changes.started),
        calls_finished=tuple(changes.finished),
    )


def _usage(event: TaskFinished) -> wire.Usage:
    return wire.Usage(
        prompt_tokens=event.prompt_tokens,
        completion_tokens=event.completion_tokens,
        total_tokens=event.prompt_tokens + event.completion_tokens,
        cached_tokens=event.cached_tokens,
    )
