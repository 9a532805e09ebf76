"""Who gets a place, where, and how many at a time."""

from __future__ import annotations

import pytest

from server.scheduler.app_scheduler import MAX_ADOPTED
from server.scheduler.events import (
    Dispatch,
    EngineDown,
    EngineLoad,
    EngineUp,
    ObjectiveChanged,
    TaskCancelled,
    TaskFinished,
    TaskReady,
)
from server.scheduler.placer import MAX_PLACED
from tests.server.scheduler.scheduling import PATIENT, URGENT, Scheduler, places, spec


def test_a_long_queue_is_handed_out_in_order_over_several_events() -> None:
    scheduler = Scheduler()
    scheduler.queue(*(spec(number, f"app{number}") for number in range(300)))
    rounds = [places(scheduler(EngineUp(0, 1000)))]
    rounds += [places(actions) for actions in scheduler.resumed()]
    assert [task for placed in rounds for task, _ in placed] == list(range(300))
    assert max(map(len, rounds)) == MAX_PLACED


def test_the_least_loaded_engine_takes_the_next_task() -> None:
    scheduler = Scheduler(1000, 1000)
    assert [
        scheduler.ready(spec(n, f"app{n}", tokens=t)).engine_id for n, t in enumerate((500, 100, 100, 100))
    ] == [0, 1, 1, 1]
    scheduler(TaskFinished(0))
    assert scheduler.ready(spec(9, "app9")).engine_id == 0


def test_between_equal_engines_an_application_stays_where_it_was() -> None:
    scheduler = Scheduler(1000, 1000)
    scheduler.ready(spec(1, "x", tokens=500))
    assert scheduler.ready(spec(2, "mine")).engine_id == 1
    scheduler(TaskFinished(1))
    scheduler(TaskFinished(2))
    assert scheduler.ready(spec(3, "mine")).engine_id == 1


def test_what_is_computed_ahead_goes_where_its_beginning_is_else_where_least_runs_and_nowhere_when_all_wait() -> (
    None
):
    scheduler = Scheduler(1000, 1000)
    assert scheduler.pure.place_ahead("a") == 0
    assert scheduler.engine_of(spec(1, "other")) == 0
    assert scheduler.engine_of(spec(2, "a")) == 1
    assert scheduler.pure.place_ahead("a") == 1, "of equals, where it was"
    scheduler(TaskFinished(1))
    assert scheduler.pure.place_ahead("a") == 0, "nothing decodes there"
    assert scheduler.pure.place_ahead("a", home=1) == 1
    scheduler(EngineLoad(1, 3, 2, 0))
    assert scheduler.pure.place_ahead("a", home=1) == 0
    scheduler(EngineLoad(0, 3, 2, 0))
    assert scheduler.pure.place_ahead("a", home=1) is None


def test_a_task_goes_where_its_prompt_was_computed_ahead() -> None:
    scheduler = Scheduler(1000, 1000)
    assert scheduler.engine_of(spec(1, "a", tokens=100)) == 0
    scheduler(TaskFinished(1))
    there = spec(2, "a", order=1, tokens=100, ahead=(1, 90))
    assert scheduler.engine_of(there) == 1
    assert Scheduler(1000, 1000, disabled="affinity").engine_of(there) == 0


def test_many_tasks_of_an_engine_that_went_down_are_placed_again_a_few_at_a_time_and_in_order() -> None:
    count = 3 * MAX_ADOPTED
    scheduler = Scheduler(10**6)
    for number in range(count):
        scheduler.ready(spec(number, f"app{number}"))
    scheduler(EngineUp(1, 10**6))
    placed = scheduler(EngineDown(0))
    assert scheduler.pure.has_more
    placed += scheduler(TaskCancelled(count - 1))  # one that nobody has placed yet
    placed += scheduler(ObjectiveChanged(count - 2, PATIENT))
    for more in scheduler.resumed():
        assert 0 < len(more) <= MAX_PLACED
        placed += more
    again = [action for action in placed if isinstance(action, Dispatch)]
    assert scheduler.pure.num_queued == 0
    assert {action.engine_id for action in again} == {1}
    assert [action.task_id for action in again][:MAX_ADOPTED] == list(range(MAX_ADOPTED))


def full(hold_tokens: int = 300) -> Scheduler:
    """Two engines that have no room, and on which a patient task waits already."""
    scheduler = Scheduler(500, 500, hold_tokens=hold_tokens)
    for engine in (0, 1):
        scheduler.ready(spec(engine, "first", objective=PATIENT, tokens=490))
        scheduler(EngineLoad(engine, 1, 1, 0))
    return scheduler


def test_what_no_engine_could_start_is_held_back_until_one_can() -> None:
    scheduler = full()
    scheduler.queue(spec(10, "second", objective=PATIENT))
    assert places(scheduler(EngineLoad(1, 1, 0, 0))) == [(10, 1)]
    scheduler = full()
    scheduler.queue(spec(10, "second", objective=PATIENT))
    assert places(scheduler(TaskFinished(0))) == [(10, 0)]


def test_what_would_not_be_last_in_an_engines_queue_is_not_held_back() -> None:
    scheduler = full()
    scheduler.queue(spec(10, "second", objective=PATIENT))
    assert scheduler.ready(spec(11, "third")).task_id == 11
    assert scheduler.ready(spec(12, "first", objective=PATIENT, order=-1)).task_id == 12


def test_no_more_is_held_back_than_a_step_takes() -> None:
    scheduler = full(hold_tokens=100)
    scheduler.queue(spec(10, "b", objective=PATIENT), spec(11, "c", objective=PATIENT))
    assert [task for task, _ in places(scheduler(TaskReady(spec(12, "d", objective=PATIENT))))] == [10]


def test_nothing_is_held_back_for_long() -> None:
    scheduler = full()
    scheduler.queue(spec(10, "second", objective=PATIENT))
    scheduler.now = 0.9
    assert scheduler(EngineLoad(0, 1, 1, 0)) == []
    scheduler.now = 1.1
    assert [task for task, _ in places(scheduler(EngineLoad(0, 1, 1, 0)))] == [10]


@pytest.mark.parametrize(
    "scheduler", [full(0), Scheduler(100, hold_tokens=10_000)], ids=["by default", "one engine"]
)
def test_nothing_is_held_back(scheduler: Scheduler) -> None:
    for number in range(10, 14):
        scheduler.ready(spec(number, objective=PATIENT))


def test_what_is_held_back_can_be_cancelled_and_gets_urgent() -> None:
    scheduler = full()
    scheduler.queue(spec(10, "b", objective=PATIENT), spec(11, "b", objective=PATIENT))
    assert scheduler(TaskCancelled(10)) == []
    assert [task for task, _ in places(scheduler(ObjectiveChanged(11, URGENT)))] == [11]


def test_the_last_engine_takes_what_was_held_back() -> None:
    scheduler = full()
    scheduler.queue(spec(10, "b", objective=PATIENT))
    assert sorted(places(scheduler(EngineDown(0)))) == [(0, 1), (10, 1)]
