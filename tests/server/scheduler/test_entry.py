"""The one order: who came first, who has little left, what is wanted soon."""

from __future__ import annotations

from engine.types import Objective, Urgency
from server.scheduler.applications import WAITING
from server.scheduler.calibration import StepModel
from server.scheduler.entry import HEAD_START_S
from server.scheduler.events import (
    EngineUp,
    ObjectiveChanged,
    Reprioritise,
    TaskFinished,
    TaskSpec,
    TaskStarted,
)
from tests.server.scheduler.scheduling import URGENT, Scheduler, places, spec


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
    assert scheduler(ObjectiveChanged(1, wanted)) == [
        Reprioritise(1, 0, (0, 2500, WAITING + 1, 0, 1), wanted)
    ]
    assert scheduler(ObjectiveChanged(1, URGENT)) == [
        Reprioritise(1, 0, (0, 60_000, WAITING + 1, 0, 1), URGENT)
    ]


def key_of(scheduler: Scheduler, task: TaskSpec) -> tuple[int, ...]:
    return scheduler.ready(task).key


def test_of_applications_that_came_together_the_one_with_the_least_left_goes_first() -> None:
    scheduler = Scheduler(1000)
    long, short = spec(1, "long", remaining=1000), spec(2, "short", remaining=20)
    assert key_of(scheduler, short) < key_of(scheduler, long)
    scheduler = Scheduler(1000, disabled="srpt")
    assert key_of(scheduler, long) < key_of(scheduler, short)


def test_what_an_application_does_later_holds_its_first_call_back_less_than_that_call_s_own_work() -> None:
    """Both have as much to do: one in a long call, one in many short ones, each of which competes anew."""
    scheduler = Scheduler(10_000)
    call = key_of(scheduler, spec(1, "call", output=1000, remaining=1000))
    chain = key_of(scheduler, spec(2, "chain", output=10, remaining=1000))
    single = key_of(scheduler, spec(3, "single", output=10, remaining=10))
    assert single < chain < call


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


def test_applications_that_have_begun_go_on_in_the_order_in_which_they_did() -> None:
    scheduler = Scheduler(1000)
    scheduler.ready(spec(1, "long", remaining=100))
    scheduler.ready(spec(2, "short", remaining=90))
    for task in (2, 1):
        scheduler(TaskStarted(task))
    short = key_of(scheduler, spec(3, "short", order=1, remaining=80))
    long = key_of(scheduler, spec(4, "long", order=1, remaining=1))
    newcomer = key_of(scheduler, spec(5, "newcomer", remaining=1))
    assert short < long < newcomer
    assert short[2] < long[2] < newcomer[2]  # so that a slot is given up in this order


def test_how_long_work_takes_is_what_engines_say_of_their_steps() -> None:
    slow, fast = (Scheduler(1000, calibration=StepModel(a, 0.0, 0.0)) for a in (100.0, 1.0))
    for scheduler, waits in ((slow, True), (fast, False)):
        long = key_of(scheduler, spec(1, "long", remaining=100))
        scheduler.now = 1.0
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
