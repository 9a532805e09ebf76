"""Random call graphs against simple models: cycles, order, execution, failure, and replay."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parrot import wire
from server.errors import Conflict
from server.graph.call import Task
from server.session import export
from server.session.events import (
    CallsCancelled,
    Effects,
    SessionEvent,
    TaskFailed,
    TaskFinished,
    TaskStarted,
)
from server.session.session import Session
from tests.server.session.programs import Program

Shape = tuple[tuple[int, ...], ...]
"""A call: for each output the variables read before it, by number."""

SHAPES = st.lists(
    st.lists(st.lists(st.integers(0, 7), max_size=3).map(tuple), min_size=1, max_size=3).map(tuple),
    min_size=1,
    max_size=7,
)


def call(number: int, shape: Shape) -> wire.Call:
    """Reads of a number that no output has are of a variable that nobody sets."""
    parts = [
        "".join(f"{{{{input:i{read}}}}}" for read in reads) + f"{{{{output:o{n}}}}}"
        for n, reads in enumerate(shape)
    ]
    inputs = {read for reads in shape for read in reads}
    bound = [wire.Placeholder(name=f"i{read}", semantic_var_id=f"v{read}") for read in inputs]
    bound += [wire.Placeholder(name=f"o{n}", semantic_var_id=produced(number, n)) for n in range(len(shape))]
    return wire.Call(prompt=f"call {number}: " + " ".join(parts), placeholders=bound)


def produced(number: int, output: int) -> str:
    """The first output of call n is variable n, the others are nobody's input."""
    return f"v{number}" if output == 0 else f"w{number}.{output}"


def has_cycle(shapes: Sequence[Shape]) -> bool:
    """By repeatedly removing tasks that wait for nothing."""
    left = {(number, n) for number, shape in enumerate(shapes) for n in range(len(shape))}
    while True:
        free = {
            (number, n)
            for number, n in left
            if (number, n - 1) not in left and not any((read, 0) in left for read in shapes[number][n])
        }
        if not free:
            return bool(left)
        left -= free


@settings(deadline=None, max_examples=200)
@given(SHAPES, st.data())
def test_exactly_the_submits_that_close_a_cycle_are_refused(shapes: list[Shape], data: st.DataObject) -> None:
    program = Program()
    order = data.draw(st.permutations(range(len(shapes))))
    accepted: list[Shape] = [((),)] * len(shapes)
    while order:
        count = data.draw(st.integers(1, len(order)))
        batch, order = order[:count], order[count:]
        proposed = list(accepted)
        for number in batch:
            proposed[number] = shapes[number]
        before = export.graph(program.session, "json")
        calls = [call(number, shapes[number]) for number in batch]
        if has_cycle(proposed):
            with pytest.raises(Conflict, match="cycle"):
                program.submit(*calls)
            assert export.graph(program.session, "json") == before
        else:
            program.submit(*calls)
            accepted = proposed


class Run:
    """Carries out effects as a service would, with every decision drawn. Checks what must hold on the way."""

    def __init__(self, data: st.DataObject) -> None:
        self.program = Program()
        self.data = data
        self.events: list[SessionEvent] = []
        self.live: list[Task] = []
        self.seen: set[Task] = set()

    def apply(self, event: SessionEvent) -> None:
        self.events.append(event)
        self.follow(self.program.apply(event))

    def follow(self, effects: Effects) -> None:
        for task in effects.ready:
            assert task not in self.seen, "a task is ready once"
            assert all(variable.state == "ready" for variable in task.reads)
            assert task.previous is None or task.previous.state == "done"
            task.context()
            self.seen.add(task)
            self.live.append(task)
        for task in effects.aborted:
            self.live.remove(task)
        assert all(not task.ended for task in self.live)

    def submit(self, calls: list[wire.Call]) -> None:
        program = self.program
        try:
            event = program.session.plan_submit(calls, program.environment)
        except Conflict:
            return
        self.apply(event)

    def step(self) -> None:
        task = self.data.draw(st.sampled_from(self.live))
        match self.data.draw(st.sampled_from(["finish", "finish", "finish", "start", "fail", "cancel"])):
            case "start":
                self.apply(TaskStarted(task.id, 0))
            case "finish":
                self.live.remove(task)
                self.apply(TaskFinished(task.id, f"<{task.id}>", (1, 2)))
            case "fail":
                self.live.remove(task)
                self.apply(TaskFailed(task.id, "failed"))
            case _:
                self.apply(CallsCancelled((task.call.id,)))


@settings(deadline=None, max_examples=150)
@given(SHAPES, st.data())
def test_every_task_ends_and_none_runs_before_its_inputs(shapes: list[Shape], data: st.DataObject) -> None:
    run = Run(data)
    calls = [call(number, shape) for number, shape in enumerate(shapes)]
    split = data.draw(st.integers(1, len(calls)))
    run.submit(calls[:split])
    for late in calls[split:]:
        for _ in range(data.draw(st.integers(0, 2))):
            if run.live:
                run.step()
        run.submit([late])
    session, environment = run.program.session, run.program.environment
    for variable in [*session.graph.variables.values()]:
        if variable.producer is None and not variable.ended:
            event = session.plan_set(variable.name, "given", environment)
            assert event is not None
            run.apply(event)
    while run.live:
        run.step()
    assert all(task.ended for task in session.graph.tasks.values())
    assert all(variable.ended for variable in session.graph.variables.values())
    assert_the_same_after_replay(session, run.events)


def assert_the_same_after_replay(session: Session, events: list[SessionEvent]) -> None:
    again = Session(session.id, session.tenant, 0.0)
    for number, event in enumerate(events, 1):
        stored = msgspec.msgpack.encode(event)
        again.apply(msgspec.msgpack.decode(stored, type=SessionEvent), float(number))
    assert export.graph(again, "json") == export.graph(session, "json")
    assert export.trace(again, 0.0) == export.trace(session, 0.0)


def test_the_primitives_of_the_paper() -> None:
    program = Program()
    program.submit(
        "{{input:task}}{{output:code}}", "{{input:task}}{{input:code}}{{output:test}}", get=["test"]
    )
    graph = program.session.graph
    write, test = graph.calls.values()
    code = graph.variable("code")
    assert graph.get_producer(code) is write
    assert graph.get_consumers(code) == (test,)
    assert graph.get_producer(graph.variable("task")) is None
    assert graph.get_consumers(graph.variable("task")) == (write, test)
    assert graph.get_perf_obj(code) == write.tasks[0].objective
