"""The application scheduler: events in, actions out."""

from __future__ import annotations

import pytest

from engine.types import Objective, Urgency
from server.scheduler.app_scheduler import MAX_ADOPTED, MAX_PLACED, AppScheduler
from server.scheduler.calibration import StepModel
from server.scheduler.entry import HEAD_START_S
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
    TaskSpec,
    TaskStarted,
)
from tests.server.scheduler.scheduling import PATIENT, URGENT, Scheduler, places, spec


def test_a_ready_task_goes_to_the_engine_at_once() -> None:
    scheduler = Scheduler(1000)
    assert scheduler.ready(spec(1)) == Dispatch(1, 0, (0, 60_000, 1, 0, 1), URGENT)


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


def test_a_long_queue_is_handed_out_in_order_over_several_events() -> None:
    scheduler = Scheduler()
    scheduler.queue(*(spec(number, f"app{number}") for number in range(300)))
    rounds = [places(scheduler(EngineUp(0, 1000)))]
    rounds += [places(actions) for actions in scheduler.resumed()]
    assert [task for placed in rounds for task, _ in placed] == list(range(300))
    assert max(map(len, rounds)) == MAX_PLACED


def test_an_application_that_came_first_stays_first_between_its_tasks() -> None:
    scheduler = Scheduler(1000)
    scheduler.ready(spec(1, "early"))
    later = scheduler.ready(spec(2, "late"))
    scheduler(TaskFinished(1))
    successor = scheduler.ready(spec(3, "early", order=1))
    assert successor.key < later.key


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
    assert scheduler(change) == [Reprioritise(1, 0, (0, 60_000, 1, 0, 1), URGENT)]
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


def test_what_is_wanted_soon_goes_before_what_is_as_urgent() -> None:
    scheduler = Scheduler()
    soon, sooner = Objective(Urgency.LATENCY, within_ms=500), Objective(Urgency.LATENCY, within_ms=100)
    scheduler.queue(
        spec(1, "first"),
        spec(2, "second", objective=soon),
        spec(3, "third", objective=sooner),
        spec(4, "fourth", objective=Objective(Urgency.THROUGHPUT, within_ms=1)),
    )
    assert [task for task, _ in places(scheduler(EngineUp(0, 10_000)))] == [3, 2, 1, 4]


def test_what_is_wanted_soon_does_not_pass_who_has_waited_for_long() -> None:
    scheduler = Scheduler()
    scheduler.queue(spec(1, "patient"))
    scheduler.now = 59.0
    scheduler.queue(spec(2, "hasty", objective=Objective(Urgency.LATENCY, within_ms=5000)))
    assert [task for task, _ in places(scheduler(EngineUp(0, 1000)))] == [1, 2]


def test_a_deadline_that_comes_later_gives_an_earlier_place_from_then_on() -> None:
    scheduler = Scheduler(1000)
    scheduler.ready(spec(1))
    scheduler.now = 2.0
    wanted = Objective(Urgency.LATENCY, within_ms=500)
    assert scheduler(ObjectiveChanged(1, wanted)) == [Reprioritise(1, 0, (0, 2500, 1, 0, 1), wanted)]
    assert scheduler(ObjectiveChanged(1, URGENT)) == [Reprioritise(1, 0, (0, 60_000, 1, 0, 1), URGENT)]


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
    assert changes == [Reprioritise(1, 0, (0, 0, 1, 0, 1), URGENT)]
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


def key_of(scheduler: Scheduler, task: TaskSpec) -> tuple[int, ...]:
    return scheduler.ready(task).key


def test_of_applications_that_came_together_the_one_with_the_least_left_goes_first() -> None:
    scheduler = Scheduler(1000)
    long, short = spec(1, "long", remaining=1000), spec(2, "short", remaining=20)
    assert key_of(scheduler, short) < key_of(scheduler, long)
    scheduler = Scheduler(1000, disabled="srpt")
    assert key_of(scheduler, long) < key_of(scheduler, short)


def test_an_application_comes_forward_as_it_gets_on() -> None:
    scheduler = Scheduler(1000)
    first = key_of(scheduler, spec(1, "long", remaining=1000))
    other = key_of(scheduler, spec(2, "other", remaining=500))
    last = key_of(scheduler, spec(3, "long", order=9, remaining=10))
    assert last < other < first


def test_an_application_that_has_begun_keeps_its_place_before_shorter_newcomers() -> None:
    scheduler = Scheduler(1000)
    scheduler.ready(spec(1, "chain", remaining=1000))
    scheduler(TaskFinished(1))
    scheduler.now = 5.0
    newcomer = key_of(scheduler, spec(2, "newcomer", remaining=1))
    assert key_of(scheduler, spec(3, "chain", order=1, remaining=990)) < newcomer


def test_how_long_work_takes_is_what_engines_say_of_their_steps() -> None:
    slow, fast = (Scheduler(1000, calibration=StepModel(a, 0.0, 0.0)) for a in (100.0, 1.0))
    for scheduler, waits in ((slow, True), (fast, False)):
        long = key_of(scheduler, spec(1, "long", remaining=100))
        scheduler.now = 5.0
        assert (key_of(scheduler, spec(2, "late", remaining=1)) < long) == waits


def test_what_is_wanted_within_a_time_goes_before_whatever_has_little_left() -> None:
    scheduler = Scheduler(1000)
    short = key_of(scheduler, spec(1, "short", remaining=1))
    scheduler.now = 5.0
    wanted = spec(2, "long", remaining=10_000, objective=Objective(Urgency.LATENCY, within_ms=200.0))
    assert key_of(scheduler, wanted) < short


def test_an_application_that_goes_on_for_hours_does_not_go_first_for_hours() -> None:
    scheduler = Scheduler(1000)
    scheduler.ready(spec(1, "old"))
    scheduler.now = 3600.0
    scheduler.ready(spec(2, "new"))
    scheduler.now = 3600.0 + HEAD_START_S + 1.0
    assert key_of(scheduler, spec(3, "old", age_s=0.0)) > key_of(scheduler, spec(4, "new", age_s=61.0))
    submitted_then = spec(5, "old", age_s=3600.0)
    assert key_of(scheduler, submitted_then) < key_of(scheduler, spec(6, "new", age_s=61.0))


def test_why_a_task_went_where_it_is_is_remembered_beyond_its_end() -> None:
    scheduler = Scheduler(1000, 1000)
    scheduler.ready(spec(1))
    why = scheduler.pure.why(1)
    assert why is not None
    assert why.startswith("best of 2, fits")
    scheduler(TaskFinished(1))
    assert scheduler.pure.why(1) == why
    assert scheduler.pure.why(77) is None


def test_what_is_computed_ahead_goes_where_its_application_was_and_nowhere_when_all_are_busy() -> None:
    scheduler = Scheduler(1000, 1000)
    assert scheduler.pure.place_ahead("a") == 0
    assert scheduler.engine_of(spec(1, "other")) == 0
    assert scheduler.engine_of(spec(2, "a")) == 1
    assert scheduler.pure.place_ahead("a") == 1
    scheduler(EngineLoad(1, 3, 2, 0))
    assert scheduler.pure.place_ahead("a") == 0
    scheduler(EngineLoad(0, 3, 2, 0))
    assert scheduler.pure.place_ahead("a") is None


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
