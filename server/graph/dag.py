"""The call graph of one session: variables, calls, and what may run.

Source: OSDI'24 "Parrot", section 4.2 (GetProducer, GetConsumers, GetPerfObj). Nodes are variables and tasks;
a task waits for the variables of its own fills and for the task before it in its call. Every method is
iterative and costs what it changes, so a chain of 10,000 calls is as good as 10,000 calls.

Invariants (`graph.invariants`): a variable is assigned once and has at most one producer; a task is ready
exactly when all it waits for is there; what can no longer get its inputs has failed, with the cause.

Leaves to others: whether a submit is valid (`session.plan`, `order.place`); this class trusts its specs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from engine.types import Objective
from parrot import wire
from server.errors import NotFound
from server.graph import objective
from server.graph.call import Call, CallSpec, Task, VariableSpec
from server.graph.changes import Changes
from server.graph.objective import Demand
from server.graph.order import Orders, reads
from server.graph.prefix import Kept
from server.graph.prepared import Transforms
from server.graph.template import Output
from server.graph.values import fill, value_of
from server.graph.variable import Failure, SemanticVariable

ID_PREFIX = "var_"


@dataclass(slots=True)
class CallGraph:
    """Owns the variables, calls and tasks of a session. `size`: characters of all templates and values.

    `max_context`: characters that one task may be made of; `max_size`: what the session may grow to.
    """

    max_context: int
    max_size: int
    variables: dict[str, SemanticVariable] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    size: int = 0
    transforms: Transforms = field(default_factory=Transforms)

    def find(self, ref: str) -> SemanticVariable | None:
        """By name or id."""
        return self.variables.get(ref if ref.startswith(ID_PREFIX) else self.names.get(ref, ""))

    def variable(self, ref: str) -> SemanticVariable:
        """Raises NotFound."""
        found = self.find(ref)
        if found is None:
            raise NotFound(f"The session has no variable {ref[:140]!r}.", param="variable")
        return found

    def get_producer(self, variable: SemanticVariable) -> Call | None:
        return None if variable.producer is None else variable.producer.call

    def get_consumers(self, variable: SemanticVariable) -> tuple[Call, ...]:
        return tuple(dict.fromkeys(task.call for task in variable.consumers))

    def get_perf_obj(self, variable: SemanticVariable) -> Objective:
        """What its value is wanted for, asked for or deduced."""
        asked = variable.requested or objective.THROUGHPUT
        return asked if variable.producer is None else objective.strictest(asked, variable.producer.objective)

    def add(
        self, variables: Iterable[VariableSpec], specs: Sequence[CallSpec], orders: Orders, now: float
    ) -> Changes:
        """A valid submit. `orders` are `order.place`'s for these specs."""
        changes = Changes()
        for variable in variables:
            self._add_variable(variable)
        for id, order in orders.moved:
            self.tasks[id].order = order
        tasks = [
            task
            for spec, order in zip(specs, orders.new, strict=True)
            for task in self._add_call(spec, order, now)
        ]
        for task in tasks:
            changes.variables[task.output.id] = None
        self._deduce_new(tasks, changes)
        for task in tasks:
            self._start_waiting(task, now, changes)
        return changes

    def set(self, spec: VariableSpec, now: float) -> Changes:
        """A client's value, for a variable that has neither value nor producer."""
        changes = Changes()
        if spec.id not in self.variables:
            self._add_variable(spec)
        elif spec.value is not None:
            self.size += len(spec.value)
            self.variables[spec.id].resolve(spec.value)
        changes.variables[spec.id] = None
        self._release(self.variables[spec.id], now, changes)
        return changes

    def request(self, id: str, wanted: Objective) -> Changes:
        """A `get`. What is ready or running already is told when it became more urgent."""
        changes = Changes()
        self._request(self.variables[id], wanted, changes)
        return changes

    def start(self, id: str, engine: int | None, now: float, reason: str | None = None) -> Changes:
        """Also when a task starts over on another engine. `reason`: why there."""
        changes = Changes()
        task = self.tasks.get(id)
        if task is None or task.ended:
            return changes
        task.progress.engine, task.progress.reason = engine, reason
        if task.state != "running":
            task.state = task.output.state = "running"
            task.progress.started = now
            changes.variables[task.output.id] = None
            changes.started[task.call.id] = None
        return changes

    def grow(self, id: str, text: str) -> Changes:
        changes = Changes()
        task = self.tasks.get(id)
        if task is not None and not task.ended and task.output.is_streamed:
            task.output.grow(text)
            changes.variables[task.output.id] = None
        return changes

    def finish(
        self, id: str, kept: Kept, usage: wire.Usage, now: float, queue_ms: float | None = None
    ) -> Changes:
        """`kept`: the output as generated; its transforms make the value of it. `queue_ms`: see Progress."""
        changes = Changes()
        task = self.tasks.get(id)
        if task is None or task.ended:
            return changes
        task.kept, task.progress.usage, task.progress.queue_ms = kept, usage, queue_ms
        task.state = "done"
        self._end(task, now, changes)
        failure = self._assign(task, kept.text)
        if failure is None:
            self._release(task.output, now, changes)
        else:
            task.output.fail(failure, "failed")
            self._fail_consumers([task.output], now, changes)
        if task.next is not None:
            self._meet(task.next, now, changes)
        return changes

    def fail(self, id: str, message: str, code: str, type: str, now: float) -> Changes:
        """The engine, or the way to it, failed the task. `code` and `type` are OpenAI's."""
        changes = Changes()
        task = self.tasks.get(id)
        if task is not None and not task.ended:
            self._fail(task, Failure(task.output.name, message, code, task.call.id, type), now, changes)
        return changes

    def cancel(self, calls: Iterable[Call], message: str, now: float) -> Changes:
        """All of them at once, so that none has failed because of another."""
        changes = Changes()
        tasks = [task for call in calls for task in call.tasks if not task.ended]
        self._cancel(tasks, message, now, changes)
        return changes

    def close(self, message: str, now: float) -> Changes:
        """Nothing will run or get a value any more."""
        changes = Changes()
        self._cancel([task for task in self.tasks.values() if not task.ended], message, now, changes)
        for variable in self.variables.values():
            if variable.state == "empty":
                variable.fail(Failure(variable.name, message, "cancelled"), "cancelled")
                changes.variables[variable.id] = None
        return changes

    def _add_variable(self, spec: VariableSpec) -> None:
        variable = SemanticVariable(spec.id, spec.name or spec.id)
        self.variables[spec.id] = variable
        if spec.name is not None:
            self.names[spec.name] = spec.id
        if spec.value is not None:
            self.size += len(spec.value)
            variable.resolve(spec.value)

    def _add_call(self, spec: CallSpec, orders: Sequence[int], now: float) -> Iterator[Task]:
        call = Call(spec, now, unfinished=len(spec.outputs))
        ends = [index for index, segment in enumerate(spec.segments) if isinstance(segment, Output)]
        tasks: list[Task] = []
        for index, (output, read) in enumerate(zip(spec.outputs, reads(spec), strict=True)):
            task = Task(
                id=f"{spec.id}/{index}",
                call=call,
                index=index,
                start=ends[index - 1] + 1 if index else 0,
                end=ends[index],
                reads=tuple(self.variables[id] for id in read),
                output=self.variables[output.variable],
                order=orders[index],
            )
            task.output.producer, task.output.state = task, "pending"
            task.output.is_streamed = output.transforms is None
            for variable in task.reads:
                variable.consumers.append(task)
            self.tasks[task.id] = task
            tasks.append(task)
        call.tasks = tuple(tasks)
        self.calls[call.id] = call
        self.size += spec.size
        yield from tasks

    def _deduce_new(self, tasks: Iterable[Task], changes: Changes) -> None:
        """New tasks may be what somebody waits for, or what urgent tasks wait for."""
        demands: list[tuple[Task, Demand]] = []
        urgent: dict[Task, None] = {}
        for task in tasks:
            if (wanted := task.call.spec.objective) is not None:
                asked = task.output.requested
                task.output.requested = wanted if asked is None else objective.strictest(asked, wanted)
            if task.output.requested is not None:
                demands.append((task, Demand(task.output.requested, via=task.output.id)))
            urgent.update(
                (reader, None) for reader in task.output.consumers if reader.demand != objective.DEFAULT
            )
        _note(objective.deduce(demands, urgent), changes)

    def _request(self, variable: SemanticVariable, wanted: Objective, changes: Changes) -> None:
        if variable.requested is not None:
            wanted = objective.strictest(variable.requested, wanted)
        variable.requested = wanted
        if variable.producer is None or variable.producer.ended:
            return
        _note(objective.deduce([(variable.producer, Demand(wanted, via=variable.id))]), changes)

    def _start_waiting(self, task: Task, now: float, changes: Changes) -> None:
        if task.ended:
            return
        task.missing = sum(variable.state != "ready" for variable in task.reads) + (task.previous is not None)
        lost = next((variable for variable in task.reads if variable.failure is not None), None)
        if lost is not None:
            self._fail(task, _inherited(task, lost), now, changes)
        elif not task.missing:
            self._make_ready(task, now, changes)

    def _meet(self, task: Task, now: float, changes: Changes) -> None:
        """One of the things that a task waits for is there."""
        if task.state == "waiting":
            task.missing -= 1
            if not task.missing:
                self._make_ready(task, now, changes)

    def _release(self, variable: SemanticVariable, now: float, changes: Changes) -> None:
        for task in variable.consumers:
            self._meet(task, now, changes)

    def _make_ready(self, task: Task, now: float, changes: Changes) -> None:
        failure = fill(task, self.transforms, self.max_context)
        if failure is not None:
            self._fail(task, failure, now, changes)
            return
        task.state = "ready"
        task.progress.ready = now
        changes.ready[task] = None

    def _assign(self, task: Task, text: str) -> Failure | None:
        value = value_of(task, text, self.transforms, self.size, self.max_size)
        if isinstance(value, Failure):
            return value
        self.size += len(value)
        task.output.resolve(value)
        return None

    def _end(self, task: Task, now: float, changes: Changes) -> None:
        """Common to every end of a task, after its state is set."""
        task.progress.finished = now
        changes.variables[task.output.id] = None
        changes.ready.pop(task, None)
        task.call.unfinished -= 1
        if not task.call.unfinished:
            changes.finished[task.call.id] = None

    def _fail(self, task: Task, failure: Failure, now: float, changes: Changes) -> None:
        task.state = "failed"
        task.output.fail(failure, "failed")
        self._end(task, now, changes)
        self._fail_consumers([task.output], now, changes)

    def _fail_consumers(self, lost: list[SemanticVariable], now: float, changes: Changes) -> None:
        """Everything that waits for what can no longer come, however indirectly."""
        while lost:
            variable = lost.pop()
            dependent = list(variable.consumers)
            producer = variable.producer
            if producer is not None and producer.state != "done" and producer.next is not None:
                dependent.append(producer.next)
            for task in dependent:
                if not task.ended:
                    task.state = "failed"
                    task.output.fail(_inherited(task, variable), "failed")
                    self._end(task, now, changes)
                    lost.append(task.output)

    def _cancel(self, tasks: Sequence[Task], message: str, now: float, changes: Changes) -> None:
        for task in tasks:
            if task.state in ("ready", "running"):
                changes.aborted[task] = None
            task.state = "cancelled"
            task.output.fail(Failure(task.output.name, message, "cancelled", task.call.id), "cancelled")
            self._end(task, now, changes)
        self._fail_consumers([task.output for task in tasks], now, changes)


def _note(changed: Iterable[Task], changes: Changes) -> None:
    """Who runs tasks already has to be told that they became more urgent."""
    changes.reprioritised.update((task, None) for task in changed if task.state in ("ready", "running"))


def _inherited(task: Task, lost: SemanticVariable) -> Failure:
    assert lost.failure is not None, "what is lost says why"
    return lost.failure.inherited(task.output.name, task.call.id)
