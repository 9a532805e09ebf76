"""What holds of the application scheduler whatever happens: random histories of events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.types import Objective, Urgency
from server.config import SCHEDULING
from server.scheduler.app_scheduler import AppScheduler
from server.scheduler.calibration import StepModel
from server.scheduler.entry import HEAD_START_S, PATIENCE_S
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
    Resume,
    TaskCancelled,
    TaskFinished,
    TaskReady,
    TaskSpec,
    TaskStarted,
)
from server.scheduler.placer import MAX_HOLD_S
from tests.server.scheduler.scheduling import PATIENT, URGENT, spec

CAPACITY = 1000
MODEL = StepModel(a=2.0, b=0.5, c=0.02)

OBJECTIVES = st.sampled_from(
    [URGENT, PATIENT, Objective(Urgency.LATENCY, 15.0), Objective(Urgency.LATENCY, within_ms=300.0)]
)
GROUPS = st.sampled_from([None, None, "g", "h"])
TASKS = st.builds(
    lambda app, order, objective, tokens, prefix, group, remaining, following: spec(
        0,
        app,
        order=order,
        objective=objective,
        tokens=tokens,
        prefixes=((prefix, max(1, tokens // 2)), (prefix + b"%d" % tokens, tokens)),
        group=group,
        group_size=3,
        remaining=remaining,
        following=following,
    ),
    st.sampled_from("abcd"),
    st.integers(-2, 5),
    OBJECTIVES,
    st.sampled_from([1, 40, 300, 1500]),
    st.sampled_from([b"p", b"q"]),
    GROUPS,
    st.sampled_from([None, 0, 100, 10**9]),
    st.sampled_from([0, 50]),
)
Command = tuple[str, object]
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.tuples(st.just("ready"), TASKS),
    st.tuples(st.just("ready"), TASKS),
    st.tuples(st.sampled_from(["start", "finish", "cancel"]), st.integers(0, 30)),
    st.tuples(st.just("change"), st.tuples(st.integers(0, 30), OBJECTIVES, GROUPS)),
    st.tuples(st.sampled_from(["up", "up", "down", "full", "free"]), st.integers(0, 2)),
    st.tuples(st.just("wait"), st.sampled_from([0.05, 0.5, 70.0])),
)
BEGINNINGS: st.SearchStrategy[list[Command]] = st.sampled_from([[], [("up", 0), ("up", 1)]])
HISTORIES = st.builds(list.__add__, BEGINNINGS, st.lists(COMMANDS, min_size=12, max_size=60))


def events(commands: list[Command]) -> Iterator[tuple[Event, float]]:
    """Task n is made by the n-th command; tasks that never were or have ended are named too."""
    now = 0.0
    for number, (kind, what) in enumerate(commands):
        if isinstance(what, float):
            now += what
            continue
        yield event(number, kind, what), now


def event(number: int, kind: str, what: object) -> Event:
    if isinstance(what, TaskSpec):
        prefixes = tuple(zip(what.prefix_hashes, what.prefix_tokens, strict=True))
        return TaskReady(
            spec(
                number,
                what.app,
                order=what.order,
                objective=what.objective,
                tokens=what.num_tokens,
                prefixes=prefixes,
                group=what.group,
                group_size=what.group_size,
                remaining=what.remaining_steps,
                following=what.following_steps,
            )
        )
    if isinstance(what, tuple):
        return ObjectiveChanged(*what)
    assert isinstance(what, int)
    makers: dict[str, Event] = {
        "start": TaskStarted(what),
        "finish": TaskFinished(what),
        "cancel": TaskCancelled(what),
        "up": EngineUp(what, CAPACITY, 4, MODEL),
        "down": EngineDown(what),
        "full": EngineLoad(what, 3, 2, 0),
        "free": EngineLoad(what, 1, 0, 500),
    }
    return makers[kind]


@dataclass
class World:
    """What a dispatcher would know, checked against every action."""

    pure: AppScheduler
    up: set[int] = field(default_factory=set)
    alive: set[int] = field(default_factory=set)
    placed: dict[int, int] = field(default_factory=dict)

    def handle(self, event: Event, now: float) -> None:
        was = dict(self.placed)
        self._note(event)
        for action in self.pure.handle(event, now):
            self._carry_out(action, event, was)
        self.pure.check_invariants()
        assert self.placed.keys() <= self.alive
        assert self.pure.num_queued == len(self.alive) - len(self.placed)
        if self.pure.has_more:
            self.handle(Resume(), now)

    def _note(self, event: Event) -> None:
        match event:
            case TaskReady():
                self.alive.add(event.spec.task_id)
            case TaskFinished() | TaskCancelled():
                self.alive.discard(event.task_id)
                self.placed.pop(event.task_id, None)
            case EngineUp():
                self.up.add(event.engine_id)
            case EngineDown():
                self.up.discard(event.engine_id)
                self.placed = {task: engine for task, engine in self.placed.items() if engine in self.up}
            case _:
                pass

    def _carry_out(self, action: Action, event: Event, was: dict[int, int]) -> None:
        match action:
            case Dispatch():
                assert action.task_id in self.alive
                assert action.task_id not in self.placed, "once"
                assert action.engine_id in self.up
                self.placed[action.task_id] = action.engine_id
            case Reprioritise():
                assert self.placed[action.task_id] == action.engine_id
            case Abort():
                assert event == TaskCancelled(action.task_id)
                assert was[action.task_id] == action.engine_id


@settings(deadline=None, max_examples=120)
@given(HISTORIES, st.sampled_from([0, 100, 100_000]), st.none() | st.sampled_from(SCHEDULING))
def test_every_ready_task_is_dispatched_once_and_all_end(
    history: list[Command], hold_tokens: int, toggle: str | None
) -> None:
    disabled = frozenset() if toggle is None else frozenset({toggle})
    world = World(AppScheduler(disabled=disabled, hold_tokens=hold_tokens, latency_limit_ms=30.0))
    now = 0.0
    for event, now in events(history):
        world.handle(event, now)
        assert not world.up or hold_tokens or not world.pure.num_queued
    world.handle(EngineUp(0, CAPACITY), now)
    while world.alive:
        assert world.placed, "something runs as long as anything waits"
        world.handle(TaskFinished(min(world.placed)), now)


@settings(deadline=None, max_examples=60)
@given(HISTORIES)
def test_nothing_that_is_held_back_waits_for_longer_than_the_bound(history: list[Command]) -> None:
    world = World(AppScheduler(hold_tokens=100_000))
    now = 0.0
    for event, now in events(history):
        world.handle(event, now)
    for engine in sorted(world.up):
        world.handle(EngineLoad(engine, 5, 5, 0), now + MAX_HOLD_S + 0.001 + engine)  # 0.001: rounding
        assert not world.pure.num_queued


@settings(deadline=None, max_examples=60)
@given(HISTORIES)
def test_no_patient_task_starves_under_urgent_load(history: list[Command]) -> None:
    """However many wait: one for each engine is urgent at any time, so all of them get their turn."""
    world = World(AppScheduler(hold_tokens=100))
    now = 0.0
    for event, now in events(history):
        world.handle(event, now)
    world.handle(EngineUp(0, CAPACITY), now)
    now += PATIENCE_S + 0.001  # rounding
    for number in range(len(world.alive)):
        world.handle(TaskReady(spec(100 + number, f"chat{number}")), now)
        ages = [task for task in world.alive if "waited long" in " ".join(world.pure.story(task))]
        patient = [task for task in world.alive if "THROUGHPUT" in objective_of(world, task)]
        assert set(patient) & set(ages) or not patient
        for task in ages:
            world.handle(TaskFinished(task), now)
        now += 1.0
    assert not [task for task in world.alive if "THROUGHPUT" in objective_of(world, task)]


def objective_of(world: World, task: int) -> str:
    """As its story told it last."""
    return [line for line in world.pure.story(task) if "objective:" in line or "urgency" in line][-1]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["g", "h"]), st.integers(1, 60)),
        min_size=1,
        max_size=14,
    ),
    st.lists(st.tuples(st.sampled_from(["finish", "down", "up"]), st.integers(0, 13)), max_size=20),
    st.sampled_from([0, 1000]),
)
def test_a_group_is_on_one_engine_when_there_is_room_for_it(
    members: list[tuple[str, str, int]], then: list[tuple[str, int]], hold_tokens: int
) -> None:
    world = World(AppScheduler(hold_tokens=hold_tokens))
    for engine in range(3):
        world.handle(EngineUp(engine, 14 * 70), 0.0)
    for number, (app, group, tokens) in enumerate(members):
        world.handle(TaskReady(spec(number, app, tokens=tokens, group=group)), 0.0)
    for kind, number in [("free", 0), *then]:
        if kind == "finish":
            world.handle(TaskFinished(number), 0.0)
        elif number < 3:
            happened = EngineDown(number) if kind == "down" else EngineUp(number, 14 * 70)
            world.handle(happened, 0.0)
        homes: dict[tuple[str, str], set[int]] = {}
        for task, engine in world.placed.items():
            homes.setdefault(members[task][:2], set()).add(engine)
        assert all(len(engines) == 1 for engines in homes.values())


@settings(deadline=None, max_examples=40)
@given(HISTORIES)
def test_the_same_events_give_the_same_actions(history: list[Command]) -> None:
    first, second = AppScheduler(hold_tokens=100), AppScheduler(hold_tokens=100)
    for event, now in events(history):
        assert first.handle(event, now) == second.handle(event, now)


@pytest.mark.parametrize("features", [(), SCHEDULING])
def test_keys_never_repeat(features: tuple[str, ...]) -> None:
    pure = AppScheduler(disabled=frozenset(features))
    pure.handle(EngineUp(0, CAPACITY), 0.0)
    keys = [
        action.key
        for number in range(20)
        for action in pure.handle(TaskReady(spec(number, "ab"[number % 2])), float(number // 5))
        if isinstance(action, Dispatch)
    ]
    assert len(set(keys)) == 20


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.floats(0, 400), st.integers(0, 10**7), st.floats(0, 500), st.booleans()),
        min_size=2,
        max_size=20,
    )
)
def test_nothing_is_passed_over_by_what_comes_later_than_the_bound(
    tasks: list[tuple[float, int, float, bool]],
) -> None:
    """However little what comes has left to do, and however long ago its application came."""
    pure = AppScheduler()
    pure.handle(EngineUp(0, CAPACITY), 0.0)
    keys: list[tuple[float, tuple[int, ...]]] = []
    for number, (when, remaining, age_s, starts) in enumerate(sorted(tasks)):
        ready = spec(number, f"app{number % 3}", remaining=remaining, age_s=age_s)
        (action,) = pure.handle(TaskReady(ready), when)
        assert isinstance(action, Dispatch)
        submitted = max(0.0, when - age_s)
        assert all(
            action.key > key
            for earlier, key in keys
            if submitted - earlier > PATIENCE_S + HEAD_START_S + 0.001
        )
        keys.append((when, action.key))
        if starts:
            pure.handle(TaskStarted(number), when)
