"""The application scheduler: events in, actions out."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.types import Objective, Urgency
from server.scheduler.app_scheduler import AppScheduler
from server.scheduler.events import (
    Abort,
    Action,
    Dispatch,
    EngineDown,
    EngineLoad,
    EngineUp,
    Event,
    ObjectiveChanged,
    Reprioritise,
    TaskCancelled,
    TaskFinished,
    TaskReady,
    TaskSpec,
)

URGENT, PATIENT = Objective(Urgency.LATENCY), Objective(Urgency.THROUGHPUT)


def spec(
    task_id: int,
    app: str = "a",
    *,
    order: int = 0,
    objective: Objective = URGENT,
    tokens: int = 100,
    prefixes: tuple[tuple[bytes, int], ...] = (),
) -> TaskSpec:
    return TaskSpec(
        task_id=task_id,
        app=app,
        order=order,
        objective=objective,
        num_tokens=tokens,
        max_tokens=10,
        prefix_hashes=tuple(prefix for prefix, _ in prefixes),
        prefix_tokens=tuple(count for _, count in prefixes),
    )


class Scheduler:
    """Checks the invariants after every event."""

    def __init__(self, *engines: int) -> None:
        self.pure = AppScheduler()
        for engine in engines:
            assert self(EngineUp(engine, 1000)) == []

    def __call__(self, event: Event) -> list[Action]:
        actions = self.pure.handle(event, 0.0)
        self.pure.check_invariants()
        return actions

    def ready(self, spec: TaskSpec) -> Dispatch:
        (action,) = self(TaskReady(spec))
        assert isinstance(action, Dispatch)
        return action


def test_a_ready_task_goes_to_the_engine_at_once() -> None:
    scheduler = Scheduler(0)
    assert scheduler.ready(spec(1)) == Dispatch(1, 0, (0, 1, 0, 1), URGENT)


def test_without_an_engine_tasks_wait_and_then_go_in_order() -> None:
    scheduler = Scheduler()
    specs = [
        spec(1, "first", objective=PATIENT),
        spec(2, "second", order=1),
        spec(3, "second", order=0),
        spec(4, "first", objective=URGENT, order=5),
    ]
    for item in specs:
        assert scheduler(TaskReady(item)) == []
    assert scheduler.pure.num_queued == 4
    actions = scheduler(EngineUp(7, 1000))
    assert [(action.task_id, action.engine_id) for action in actions] == [(4, 7), (3, 7), (2, 7), (1, 7)]
    keys = [action.key for action in actions if isinstance(action, Dispatch)]
    assert keys == sorted(keys)


def test_an_application_that_came_first_stays_first_between_its_tasks() -> None:
    scheduler = Scheduler(0)
    scheduler.ready(spec(1, "early"))
    later = scheduler.ready(spec(2, "late"))
    scheduler(TaskFinished(1))
    successor = scheduler.ready(spec(3, "early", order=1))
    assert successor.key < later.key


def test_the_least_loaded_engine_takes_the_next_task() -> None:
    scheduler = Scheduler(0, 1)
    assert [
        scheduler.ready(spec(n, f"app{n}", tokens=t)).engine_id for n, t in enumerate((500, 100, 100, 100))
    ] == [0, 1, 1, 1]
    scheduler(TaskFinished(0))
    assert scheduler.ready(spec(9, "app9")).engine_id == 0


def test_a_shared_prefix_draws_a_task_to_the_engine_that_has_it() -> None:
    scheduler = Scheduler(0, 1)
    assert scheduler.ready(spec(1, "a", tokens=30)).engine_id == 0
    assert scheduler.ready(spec(2, "b", tokens=200, prefixes=((b"p", 180),))).engine_id == 1
    assert scheduler.ready(spec(3, "c", tokens=200, prefixes=((b"p", 180), (b"q", 190)))).engine_id == 1
    assert scheduler.ready(spec(4, "d", tokens=200)).engine_id == 0
    assert any("shares 180 tokens" in line for line in scheduler.pure.story(3))


def test_between_equal_engines_an_application_stays_where_it_was() -> None:
    scheduler = Scheduler(0, 1)
    scheduler.ready(spec(1, "x", tokens=500))
    assert scheduler.ready(spec(2, "mine")).engine_id == 1
    scheduler(TaskFinished(1))
    scheduler(TaskFinished(2))
    assert scheduler.ready(spec(3, "mine")).engine_id == 1


def test_tasks_of_an_engine_that_went_down_are_placed_again() -> None:
    scheduler = Scheduler(0, 1)
    placed = {n: scheduler.ready(spec(n, f"app{n}")).engine_id for n in range(4)}
    moved = scheduler(EngineDown(0))
    assert [(action.task_id, action.engine_id) for action in moved] == [
        (n, 1) for n, e in placed.items() if e == 0
    ]
    assert scheduler(EngineDown(1)) == []
    assert scheduler.pure.num_queued == 4
    assert len(scheduler(EngineUp(0, 1000))) == 4
    assert scheduler(EngineDown(5)) == []


def test_cancelling_stops_a_placed_task_and_forgets_a_queued_one() -> None:
    scheduler = Scheduler(0)
    scheduler.ready(spec(1))
    assert scheduler(TaskCancelled(1)) == [Abort(1, 0)]
    assert scheduler(TaskCancelled(1)) == []
    scheduler(EngineDown(0))
    scheduler(TaskReady(spec(2)))
    assert scheduler(TaskCancelled(2)) == []
    assert scheduler(EngineUp(0, 1000)) == []


def test_a_changed_objective_reprioritises_where_the_task_is() -> None:
    scheduler = Scheduler(0)
    scheduler.ready(spec(1, objective=PATIENT))
    change = ObjectiveChanged(1, URGENT)
    assert scheduler(change) == [Reprioritise(1, 0, (0, 1, 0, 1), URGENT)]
    assert scheduler(change) == []
    assert scheduler(ObjectiveChanged(99, URGENT)) == []
    scheduler(EngineDown(0))
    scheduler(TaskReady(spec(2, "b", objective=PATIENT)))
    scheduler(TaskReady(spec(3, "c", objective=PATIENT)))
    assert scheduler(ObjectiveChanged(3, URGENT)) == []
    assert [action.task_id for action in scheduler(EngineUp(0, 1000))] == [1, 3, 2]


def test_a_story_tells_what_happened_to_a_task() -> None:
    scheduler = Scheduler(0)
    scheduler.ready(spec(1))
    scheduler(EngineLoad(0, 1, 0, 500))
    scheduler(EngineDown(0))
    scheduler(EngineUp(3, 10))
    scheduler(TaskFinished(1))
    words = [line.split(" ", 1)[1].split(":")[0] for line in scheduler.pure.story(1)]
    assert words == ["ready", "placed on engine 0", "engine 0 went down", "placed on engine 3", "finished"]
    assert scheduler.pure.story(2) == ()


SPECS = st.builds(
    lambda app, order, urgent, tokens, prefix: spec(
        0,
        app,
        order=order,
        objective=URGENT if urgent else PATIENT,
        tokens=tokens,
        prefixes=((prefix, tokens),),
    ),
    st.sampled_from("abcd"),
    st.integers(-2, 5),
    st.booleans(),
    st.integers(1, 500),
    st.sampled_from([b"p", b"q"]),
)
COMMANDS: st.SearchStrategy[tuple[str, object]] = st.one_of(
    st.tuples(st.just("ready"), SPECS),
    st.tuples(st.sampled_from(["finish", "cancel", "raise", "lower"]), st.integers(0, 30)),
    st.tuples(st.sampled_from(["up", "down"]), st.integers(0, 2)),
)


def events(commands: list[tuple[str, object]]) -> list[Event]:
    """Task n is the n-th that got ready; those that never got ready or have ended may be named too."""
    found: list[Event] = []
    for number, (kind, what) in enumerate(commands):
        if kind == "ready":
            assert isinstance(what, TaskSpec)
            found.append(
                TaskReady(
                    spec(number, what.app, order=what.order, objective=what.objective, tokens=what.num_tokens)
                )
            )
            continue
        assert isinstance(what, int)
        makers: dict[str, Event] = {
            "finish": TaskFinished(what),
            "cancel": TaskCancelled(what),
            "raise": ObjectiveChanged(what, URGENT),
            "lower": ObjectiveChanged(what, PATIENT),
            "up": EngineUp(what, 1000),
            "down": EngineDown(what),
        }
        found.append(makers[kind])
    return found


@settings(deadline=None, max_examples=200)
@given(st.lists(COMMANDS, max_size=40).map(events))
def test_every_task_is_always_on_exactly_one_engine_that_is_up(history: list[Event]) -> None:
    scheduler, up, alive, placed = Scheduler(), set[int](), set[int](), dict[int, int]()
    for event in history:
        actions = scheduler(event)
        match event:
            case TaskReady():
                alive.add(event.spec.task_id)
            case TaskFinished() | TaskCancelled():
                alive.discard(event.task_id)
                was = placed.pop(event.task_id, None)
                aborted = (
                    [Abort(event.task_id, was)]
                    if was is not None and isinstance(event, TaskCancelled)
                    else []
                )
                assert actions == aborted
                continue
            case EngineUp():
                up.add(event.engine_id)
            case EngineDown():
                up.discard(event.engine_id)
                placed = {task: engine for task, engine in placed.items() if engine in up}
            case _:
                assert all(
                    isinstance(action, Reprioritise) and placed[action.task_id] == action.engine_id
                    for action in actions
                )
                continue
        for action in actions:
            assert isinstance(action, Dispatch)
            assert action.task_id not in placed
            placed[action.task_id] = action.engine_id
        assert set(placed.values()) <= up
        assert placed.keys() == (alive if up else set())


@settings(deadline=None, max_examples=60)
@given(st.lists(COMMANDS, max_size=40).map(events))
def test_the_same_events_give_the_same_actions(history: list[Event]) -> None:
    first, second = AppScheduler(), AppScheduler()
    for number, event in enumerate(history):
        assert first.handle(event, float(number)) == second.handle(event, float(number))


@pytest.mark.parametrize("engines", [0, 2])
def test_with_ten_thousand_tasks_an_event_takes_far_less_than_a_millisecond(engines: int) -> None:
    scheduler = AppScheduler()
    for engine in range(engines):
        scheduler.handle(EngineUp(engine, 10**6), 0.0)
    history: list[Event] = [
        TaskReady(spec(n, f"app{n % 500}", order=n % 7, prefixes=((b"%d" % n, 50),))) for n in range(10_000)
    ]
    history += [ObjectiveChanged(n, PATIENT) for n in range(0, 10_000, 3)]
    history += [TaskCancelled(n) for n in range(0, 10_000, 2)]
    history += [TaskFinished(n) for n in range(1, 10_000, 2)]
    start = time.process_time()
    for event in history:
        scheduler.handle(event, 0.0)
    assert (time.process_time() - start) / len(history) < 0.0005
    scheduler.check_invariants()
