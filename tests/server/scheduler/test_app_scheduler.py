"""The application scheduler: events in, actions out."""

from __future__ import annotations

import pytest

from engine.types import Objective, Urgency
from server.scheduler.app_scheduler import AppScheduler
from server.scheduler.applications import WAITING
from server.scheduler.events import (
    Abort,
    Dispatch,
    EngineDown,
    EngineLoad,
    EngineUp,
    ObjectiveChanged,
    Reprioritise,
    TaskCancelled,
    TaskFinished,
    TaskReady,
    TaskStarted,
)
from tests.server.scheduler.scheduling import PATIENT, URGENT, Scheduler, places, spec


def test_a_ready_task_goes_to_the_engine_at_once() -> None:
    scheduler = Scheduler(1000)
    assert scheduler.ready(spec(1)) == Dispatch(1, 0, (0, 60_000, WAITING + 1, 0, 1), URGENT)


def test_without_an_engine_tasks_wait_and_then_go_in_order() -> None:
    scheduler = Scheduler()
    specs = [
        spec(1, "first", objective=PATIENT),
        spec(2, "second", order=1),
        spec(3, "second", order=0),
        spec(4, "first", objective=URGENT, order=5),
    ]
    scheduler.queue(*specs)
    assert scheduler.pure.num_queued == 4
    actions = scheduler(EngineUp(7, 1000))
    assert places(actions) == [(4, 7), (3, 7), (2, 7), (1, 7)]
    keys = [action.key for action in actions if isinstance(action, Dispatch)]
    assert keys == sorted(keys)


def test_an_application_that_came_first_stays_first_between_its_tasks() -> None:
    scheduler = Scheduler(1000)
    scheduler.ready(spec(1, "early"))
    later = scheduler.ready(spec(2, "late"))
    scheduler(TaskFinished(1))
    successor = scheduler.ready(spec(3, "early", order=1))
    assert successor.key < later.key


def test_tasks_of_an_engine_that_went_down_are_placed_again() -> None:
    scheduler = Scheduler(1000, 1000)
    placed = {n: scheduler.ready(spec(n, f"app{n}")).engine_id for n in range(4)}
    moved = scheduler(EngineDown(0))
    assert places(moved) == [(n, 1) for n, e in placed.items() if e == 0]
    assert scheduler(EngineDown(1)) == []
    assert scheduler.pure.num_queued == 4
    assert len(scheduler(EngineUp(0, 1000))) == 4
    assert scheduler(EngineDown(5)) == []


def test_cancelling_stops_a_placed_task_and_forgets_a_queued_one() -> None:
    scheduler = Scheduler(1000)
    scheduler.ready(spec(1))
    assert scheduler(TaskCancelled(1)) == [Abort(1, 0)]
    assert scheduler(TaskCancelled(1)) == []
    scheduler(EngineDown(0))
    scheduler(TaskReady(spec(2)))
    assert scheduler(TaskCancelled(2)) == []
    assert scheduler(EngineUp(0, 1000)) == []


def test_a_changed_objective_reprioritises_where_the_task_is() -> None:
    scheduler = Scheduler(1000)
    scheduler.ready(spec(1, objective=PATIENT))
    change = ObjectiveChanged(1, URGENT)
    assert scheduler(change) == [Reprioritise(1, 0, (0, 60_000, WAITING + 1, 0, 1), URGENT)]
    assert scheduler(change) == []
    assert scheduler(ObjectiveChanged(99, URGENT)) == []
    scheduler(EngineDown(0))
    scheduler(TaskReady(spec(2, "b", objective=PATIENT)))
    scheduler(TaskReady(spec(3, "c", objective=PATIENT)))
    assert scheduler(ObjectiveChanged(3, URGENT)) == []
    assert [action.task_id for action in scheduler(EngineUp(0, 1000))] == [1, 3, 2]


def test_a_story_tells_what_happened_to_a_task() -> None:
    scheduler = Scheduler(1000)
    scheduler.ready(spec(1))
    scheduler(EngineLoad(0, 1, 0, 500))
    scheduler(EngineDown(0))
    scheduler(EngineUp(3, 10))
    scheduler(TaskFinished(1))
    words = [line.split(" ", 1)[1].split(":")[0] for line in scheduler.pure.story(1)]
    assert words == ["ready", "placed on engine 0", "engine 0 went down", "placed on engine 3", "finished"]
    assert scheduler.pure.story(2) == ()


def test_without_app_fifo_requests_go_in_the_order_they_came() -> None:
    scheduler = Scheduler(disabled="app-fifo")
    scheduler.queue(spec(1, "early", order=5), spec(2, "late"), spec(3, "early", order=1))
    assert [task for task, _ in places(scheduler(EngineUp(0, 1000)))] == [1, 2, 3]


def test_a_patient_task_under_urgent_load_becomes_urgent_in_time() -> None:
    scheduler = Scheduler(1000)
    scheduler.ready(spec(1, objective=PATIENT))
    changes = []
    for second in range(1, 65):
        scheduler.now = float(second)
        urgent = spec(1000 + second, f"chat{second}")
        changes += [action for action in scheduler(TaskReady(urgent)) if not isinstance(action, Dispatch)]
    assert changes == [Reprioritise(1, 0, (0, 0, WAITING + 1, 0, 1), URGENT)]
    assert "waited long" in scheduler.why(1)


def test_patient_tasks_that_wait_together_become_urgent_one_after_the_other() -> None:
    scheduler = Scheduler(1000)
    for number in range(5):
        scheduler.ready(spec(number, objective=PATIENT))
    scheduler.now = 100.0
    assert [action.task_id for action in scheduler(EngineLoad(0, 4, 4, 0))] == [0]
    assert scheduler(EngineLoad(0, 4, 4, 0)) == []
    assert [action.task_id for action in scheduler(TaskFinished(0))] == [1]
    assert [action.task_id for action in scheduler(ObjectiveChanged(1, URGENT))] == [1, 2]


def test_a_task_that_has_started_waits_anew() -> None:
    scheduler = Scheduler(1000)
    scheduler.ready(spec(1, objective=PATIENT))
    scheduler.ready(spec(2, objective=PATIENT))
    scheduler.now = 59.0
    assert scheduler(TaskStarted(1)) == scheduler(TaskStarted(9)) == []
    scheduler.now = 61.0
    assert [action.task_id for action in scheduler(EngineLoad(0, 1, 1, 0))] == [2]


def test_an_aged_task_waiting_for_an_engine_goes_first() -> None:
    scheduler = Scheduler()
    scheduler.queue(spec(1, objective=PATIENT), spec(2, objective=PATIENT))
    scheduler.now = 70.0
    scheduler.queue(spec(3, "b"))
    actions = scheduler(EngineUp(0, 1000))
    assert [task for task, _ in places(actions)] == [1, 3, 2]
    assert isinstance(actions[0], Dispatch)
    assert actions[0].objective == URGENT


def test_without_ageing_and_for_speculative_work_nothing_changes() -> None:
    for scheduler, objective in (
        (Scheduler(1000, disabled="ageing"), PATIENT),
        (Scheduler(1000), Objective(Urgency.SPECULATIVE)),
    ):
        scheduler.ready(spec(1, objective=objective))
        scheduler.now = 1000.0
        assert scheduler(EngineLoad(0, 1, 1, 0)) == []


@pytest.mark.parametrize("number", [0, 1500])
def test_stories_are_kept_for_the_last_thousand(number: int) -> None:
    scheduler = AppScheduler()
    scheduler.handle(EngineUp(0, 10_000), 0.0)
    for task_id in range(2000):
        scheduler.handle(TaskReady(spec(task_id, f"app{task_id}")), 0.0)
        scheduler.handle(TaskFinished(task_id), 0.0)
    assert bool(scheduler.story(number)) == (number >= 1000)
    scheduler.check_invariants()


def test_why_a_task_went_where_it_is_is_remembered_beyond_its_end() -> None:
    scheduler = Scheduler(1000, 1000)
    scheduler.ready(spec(1))
    why = scheduler.pure.why(1)
    assert why is not None
    assert why.startswith("best of 2, fits")
    scheduler(TaskFinished(1))
    assert scheduler.pure.why(1) == why
    assert scheduler.pure.why(77) is None
