"""Algorithm 1 and FindEngine: which engine a task gets, and together with whom."""

from __future__ import annotations

import pytest

from engine.types import Objective, Urgency
from server.scheduler.calibration import CapacityTable, StepModel
from server.scheduler.events import (
    EngineDown,
    EngineLoad,
    ObjectiveChanged,
    TaskFinished,
)
from tests.server.scheduler.scheduling import PATIENT, URGENT, Prefixes, Scheduler, places, spec

STRICT = Objective(Urgency.LATENCY, 40.0)
TABLE = CapacityTable(((20.0, 100), (40.0, 2_000), (80.0, 6_000)))
PREFIX: Prefixes = ((b"p", 180),)


def test_a_shared_prefix_draws_a_task_to_the_engine_that_has_it() -> None:
    scheduler = Scheduler(1000, 1000)
    assert scheduler.ready(spec(1, "a", tokens=30)).engine_id == 0
    assert scheduler.ready(spec(2, "b", tokens=200, prefixes=((b"p", 180),))).engine_id == 1
    assert scheduler.ready(spec(3, "c", tokens=200, prefixes=((b"p", 180), (b"q", 190)))).engine_id == 1
    assert scheduler.ready(spec(4, "d", tokens=200)).engine_id == 0
    assert any("shares 180 tokens" in line for line in scheduler.pure.story(3))


def test_the_more_wait_the_more_a_shared_prefix_counts() -> None:
    for waiting, engine in ((0, 1), (5, 0)):
        scheduler = Scheduler(1000, 1000)
        assert scheduler.engine_of(spec(1, "a", tokens=190, output=400, prefixes=PREFIX)) == 0
        assert scheduler.engine_of(spec(2, "b", tokens=190, output=0)) == 1
        for each in (0, 1):
            scheduler(EngineLoad(each, 1, waiting, 0))
        assert scheduler.engine_of(spec(3, "c", tokens=190, prefixes=PREFIX)) == engine


@pytest.mark.parametrize("disabled", ["affinity", "prefix-cache"])
def test_without_affinity_load_alone_decides(disabled: str) -> None:
    scheduler = Scheduler(1000, 1000, disabled=disabled)
    assert scheduler.engine_of(spec(1, tokens=200, prefixes=PREFIX)) == 0
    assert scheduler.engine_of(spec(2, tokens=200, prefixes=PREFIX)) == 1


def test_of_engines_that_cost_the_same_the_one_with_the_prefix_and_then_the_fuller_one() -> None:
    scheduler = Scheduler(1000, 800)
    assert scheduler.engine_of(spec(1, "a")) == 1, "best fit"
    scheduler = Scheduler(1000, 1000)
    scheduler.ready(spec(1, "x", tokens=20))
    assert scheduler.engine_of(spec(2, "y", tokens=190, prefixes=PREFIX)) == 1
    scheduler(TaskFinished(1))
    scheduler(TaskFinished(2))
    scheduler.ready(spec(3, "z", objective=PATIENT, tokens=170))
    assert scheduler.engine_of(spec(4, "w", tokens=190, prefixes=PREFIX)) == 1


def test_a_strict_task_goes_where_strict_tasks_are_and_lax_ones_stay_away() -> None:
    scheduler = Scheduler(64_000, 64_000, calibration=TABLE)
    assert scheduler.engine_of(spec(1, "chat", objective=STRICT)) == 0
    assert scheduler.engine_of(spec(2, "map", objective=PATIENT, tokens=3_000)) == 1
    assert scheduler.engine_of(spec(3, "chat2", objective=STRICT)) == 0
    assert "cost 220 (0 capacity lost" in scheduler.why(3)
    assert scheduler.engine_of(spec(4, "map", objective=PATIENT, tokens=3_000)) == 1
    assert scheduler.engine_of(spec(5, "chat3", objective=STRICT, tokens=1_780)) == 1, (
        "more than 2,000 tokens"
    )
    assert "(58000 capacity lost" not in scheduler.why(5)


def test_without_step_limits_or_without_a_calibration_strict_tasks_are_as_others() -> None:
    for scheduler in (
        Scheduler(64_000, 64_000, calibration=TABLE, disabled="step-limits"),
        Scheduler(64_000, 64_000),
    ):
        assert scheduler.engine_of(spec(1, "chat", objective=STRICT)) == 0
        assert scheduler.engine_of(spec(2, "chat2", objective=STRICT)) == 1


def test_latency_has_the_limit_of_the_server_when_it_names_none_but_not_inside_of_a_group() -> None:
    scheduler = Scheduler(64_000, 64_000, calibration=TABLE, latency_limit_ms=20.0)
    assert scheduler.engine_of(spec(1, "chat", tokens=10)) == 0
    assert scheduler.engine_of(spec(2, "maps", tokens=1_000, group="g")) == 1
    assert scheduler.engine_of(spec(3, "chat", tokens=10)) == 0


def test_capacity_follows_from_a_linear_step() -> None:
    model = StepModel(a=3.0, b=0.5, c=0.001)
    assert model.capacity(10.0, 4) == 5_000
    assert model.capacity(4.0, 4) == 0
    assert StepModel(3.0, 0.5, 0.0).capacity(10.0, 4) is None
    assert [TABLE.capacity(limit, 1) for limit in (10.0, 20.0, 79.0, 500.0)] == [0, 100, 2_000, 6_000]


def test_a_limit_that_no_engine_can_keep_starves_nobody() -> None:
    scheduler = Scheduler(1000, 1000, calibration=StepModel(50.0, 1.0, 0.1), hold_tokens=512)
    impossible = Objective(Urgency.LATENCY, 5.0)
    assert scheduler.engine_of(spec(1, objective=impossible)) == 0
    assert "does not fit" in scheduler.why(1)


def test_an_urgent_task_takes_room_from_patient_ones_but_not_the_other_way_round() -> None:
    scheduler = Scheduler(1000, 900)
    assert scheduler.engine_of(spec(1, objective=PATIENT, tokens=850)) == 1
    assert scheduler.engine_of(spec(2, "b", objective=PATIENT, tokens=900)) == 0
    assert scheduler.engine_of(spec(3, "c", tokens=500)) == 1
    assert "fits when less urgent work pauses" in scheduler.why(3)
    scheduler.ready(spec(4, "d", objective=PATIENT, tokens=100))
    assert "does not fit" in scheduler.why(4)


def test_slots_are_room_too() -> None:
    scheduler = Scheduler(1000, 1000, max_num_seqs=2)
    long = spec(1, tokens=300)
    assert scheduler.engine_of(long) == 0
    assert [scheduler.engine_of(spec(n, "b", tokens=10)) for n in (2, 3)] == [1, 1]
    assert scheduler.engine_of(spec(4, "c", tokens=10)) == 0


def test_a_shared_prefix_takes_room_once() -> None:
    scheduler = Scheduler(300, 300)
    assert scheduler.engine_of(spec(1, "x", tokens=150)) == 0
    sharing = [spec(number, "b", tokens=190, prefixes=PREFIX) for number in range(2, 9)]
    assert [scheduler.engine_of(each) for each in sharing] == [1] * 7
    assert "does not fit" not in scheduler.why(7)
    assert "does not fit" in scheduler.why(8)


def test_a_group_goes_as_a_whole_to_the_engine_with_room_for_it() -> None:
    scheduler = Scheduler(500, 1000, hold_tokens=10_000)
    scheduler.ready(spec(90, "x", tokens=480, output=20))
    assert scheduler.engine_of(spec(91, "y", tokens=980, output=20)) == 1
    scheduler(EngineLoad(0, 1, 1, 0))
    scheduler(EngineLoad(1, 1, 1, 0))
    scheduler.queue(*(spec(n, "z", tokens=110, group="g") for n in range(8)))
    assert "held back" in scheduler.why(0)
    assert places(scheduler(TaskFinished(91))) == [(n, 1) for n in range(8)]
    assert "with 7 others of its group" in scheduler.why(3)


def test_members_that_trickle_in_join_their_group_while_there_is_room() -> None:
    scheduler = Scheduler(1000, 1000)
    assert scheduler.engine_of(spec(1, group="g")) == 0
    assert [scheduler.engine_of(spec(n, group="g")) for n in range(2, 9)] == [0] * 7
    assert [scheduler.engine_of(spec(n, group="g")) for n in range(9, 12)] == [0, 1, 1]
    assert scheduler.engine_of(spec(20, "other", group="g", tokens=10)) == 1, "a group is of one application"


def test_a_group_whose_size_is_known_gets_room_for_those_to_come() -> None:
    scheduler = Scheduler(600, 1000)
    assert scheduler.engine_of(spec(1, "x", tokens=10)) == 0
    scheduler(TaskFinished(1))
    assert scheduler.engine_of(spec(2, "x", group="small", group_size=5)) == 0
    assert scheduler.engine_of(spec(3, "x", group="large", group_size=8)) == 1


def test_a_group_that_fits_nowhere_as_a_whole_is_split() -> None:
    scheduler = Scheduler(500, 500)
    engines = [scheduler.engine_of(spec(n, group="g", group_size=7)) for n in range(7)]
    assert sorted(engines) == [0, 0, 0, 0, 1, 1, 1]
    assert engines == sorted(engines) or engines == sorted(engines, reverse=True)
    assert "apart" in scheduler.why(0)


def test_without_task_groups_members_spread() -> None:
    scheduler = Scheduler(1000, 1000, disabled="task-groups")
    assert sorted(scheduler.engine_of(spec(n, group="g")) for n in range(4)) == [0, 0, 1, 1]


def test_a_group_is_placed_together_again_when_its_engine_went_down() -> None:
    scheduler = Scheduler(1000, 1000, 1000)
    for number in range(4):
        assert scheduler.engine_of(spec(number, group="g")) == 0
    assert places(scheduler(EngineDown(0))) == [(n, 1) for n in range(4)]


def test_a_task_that_joins_or_leaves_a_group_stays_where_it_is() -> None:
    scheduler = Scheduler(1000, 1000)
    scheduler.ready(spec(1))
    (action,) = scheduler(ObjectiveChanged(1, URGENT, "g"))
    assert action.task_id == 1
    assert scheduler.engine_of(spec(2, group="g")) == 1, "nobody of it has been placed as a member"
    scheduler(ObjectiveChanged(2, URGENT))


def test_tasks_that_wait_with_the_same_prefix_go_where_all_of_them_have_room() -> None:
    scheduler = Scheduler(300, 700, hold_tokens=10_000)
    scheduler.ready(spec(90, "x", tokens=290))
    scheduler.ready(spec(91, "y", tokens=680))
    for engine in (0, 1):
        scheduler(EngineLoad(engine, 1, 1, 0))
    scheduler.queue(*(spec(n, f"app{n}", tokens=250, prefixes=PREFIX) for n in range(4)))
    scheduler.now = 0.5
    assert places(scheduler(TaskFinished(91))) == [(n, 1) for n in range(4)]
    assert "with room for 3 queued that share its prefix" in scheduler.why(0)
