"""Criteria, and what they mean for everything that a variable is made from."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.types import Objective, Urgency
from parrot.wire import Criteria, Limits
from server.errors import BadRequest
from server.graph.call import Task
from server.graph.objective import LATENCY, THROUGHPUT, describe, parse, strictest
from tests.server.session.programs import Program

MAP_REDUCE = [
    "{{input:doc}}{{output:head}}",
    "{{input:head}}{{output:m1}}",
    "{{input:head}}{{output:m2}}",
    "{{input:m1}}{{input:m2}}{{output:sum}}",
]


def task(program: Program, output: str) -> Task:
    found = program.session.variable(output).producer
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("criteria", "objective", "description"),
    [
        (None, LATENCY, "latency"),
        ("latency", LATENCY, "latency"),
        ("throughput", THROUGHPUT, "throughput"),
        ("ttft_ms:200,tpot_ms:40", Objective(Urgency.LATENCY, 40.0, 200.0), "tpot_ms:40,within_ms:200"),
        ("deadline_ms: 5000", Objective(Urgency.LATENCY, None, 5000.0), "within_ms:5000"),
        ("deadline_ms:5000,ttft_ms:90", Objective(Urgency.LATENCY, None, 90.0), "within_ms:90"),
        (Limits(tpot_ms=12.5), Objective(Urgency.LATENCY, 12.5), "tpot_ms:12.5"),
    ],
)
def test_criteria_are_words_or_limits(
    criteria: Criteria | None, objective: Objective, description: str
) -> None:
    assert parse(criteria) == objective
    assert describe(objective) == description


@pytest.mark.parametrize(
    "criteria",
    [
        "",
        "fast",
        "tpot_ms",
        "tpot_ms:x",
        "tpot_ms:0",
        "tpot_ms:nan",
        "ttft_ms:inf",
        "tpot_ms:1,tpot_ms:2",
        "a:1",
        Limits(),
    ],
)
def test_other_criteria_are_refused(criteria: Criteria) -> None:
    with pytest.raises(BadRequest) as error:
        parse(criteria, param="get.x")
    assert error.value.info.param == "get.x"


def test_what_nobody_asked_for_is_throughput_preferred() -> None:
    program = Program()
    program.submit(*MAP_REDUCE)
    program.get("sum", "throughput")
    assert {task(program, name).objective for name in ("head", "m1", "sum")} == {THROUGHPUT}


def test_producers_of_one_stage_are_a_group_without_a_limit_per_token() -> None:
    program = Program()
    program.submit(*MAP_REDUCE, get={"sum": "tpot_ms:40"})
    assert task(program, "sum").objective == Objective(Urgency.LATENCY, 40)
    assert task(program, "sum").group is None
    assert task(program, "m1").objective == task(program, "m2").objective == LATENCY
    assert task(program, "m1").group == task(program, "m2").group is not None
    assert task(program, "m1").demand.group_size == 2
    assert task(program, "head").objective == LATENCY
    assert task(program, "head").group is None


def test_all_that_a_deadline_depends_on_is_wanted_within_it() -> None:
    program = Program()
    program.submit(*MAP_REDUCE, get={"sum": "deadline_ms:5000"})
    within = Objective(Urgency.LATENCY, None, 5000)
    assert {task(program, name).objective for name in ("head", "m1", "m2", "sum")} == {within}
    program.get("m1", "ttft_ms:100")
    assert task(program, "head").objective == Objective(Urgency.LATENCY, None, 100)
    assert task(program, "m2").objective == within


def test_a_producer_alone_in_its_stage_is_as_urgent_as_its_consumer() -> None:
    program = Program()
    program.submit(
        "{{output:a}}",
        "{{input:a}}{{output:b}}",
        "{{input:a}}{{input:b}}{{output:c}}",
        get={"c": "tpot_ms:9"},
    )
    assert {(task(program, name).objective, task(program, name).group) for name in "abc"} == {
        (Objective(Urgency.LATENCY, 9), None)
    }


def test_the_strictest_of_two_demands_wins() -> None:
    program = Program()
    program.submit(*MAP_REDUCE, get=["sum"])
    program.get("m1", "tpot_ms:20")
    assert task(program, "m1").objective == Objective(Urgency.LATENCY, 20)
    assert task(program, "m1").group is None
    assert task(program, "m2").group is not None
    assert task(program, "head").objective == Objective(Urgency.LATENCY, 20)
    program.get("m1", "tpot_ms:30")
    assert task(program, "head").objective == Objective(Urgency.LATENCY, 20)


def test_a_producer_that_comes_later_takes_part() -> None:
    program = Program()
    program.submit("{{input:m1}}{{input:m2}}{{output:sum}}", get=["sum"])
    program.submit("{{input:x}}{{output:m1}}")
    assert (task(program, "m1").objective, task(program, "m1").group) == (LATENCY, None)
    program.submit("{{input:x}}{{output:m2}}")
    assert task(program, "m1").group == task(program, "m2").group is not None
    program.get("late", None) if "late" in program.session.graph.names else program.set("x", "1")
    assert {task(program, name).state for name in ("m1", "m2")} == {"ready"}


def test_a_get_before_the_producer_counts_when_it_comes() -> None:
    program = Program()
    program.submit("{{input:a}}{{output:b}}")
    program.get("a", "tpot_ms:5")
    (ready,) = program.submit("{{output:a}}").ready
    assert ready.objective == Objective(Urgency.LATENCY, 5)


def test_outputs_of_one_call_pass_urgency_to_those_before() -> None:
    program = Program()
    program.submit("{{output:a}}{{input:x}}{{output:b}}", "{{output:x}}", get={"b": "tpot_ms:7"})
    assert {task(program, name).objective for name in "axb"} == {Objective(Urgency.LATENCY, 7)}


OBJECTIVES = st.builds(
    Objective,
    st.sampled_from([Urgency.LATENCY, Urgency.THROUGHPUT]),
    st.none() | st.sampled_from([10.0, 20.0]),
    st.none() | st.sampled_from([100.0, 200.0]),
)


@given(OBJECTIVES, OBJECTIVES, OBJECTIVES)
def test_strictest_is_a_meet(a: Objective, b: Objective, c: Objective) -> None:
    assert strictest(a, a) == a
    assert strictest(a, b) == strictest(b, a)
    assert strictest(a, strictest(b, c)) == strictest(strictest(a, b), c)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=8), st.data())
def test_in_any_order_of_submits_and_gets_urgency_reaches_all_that_is_needed(
    reads: list[list[int]], data: st.DataObject
) -> None:
    """Call n reads variables below n only, so that every order of submits is acyclic."""
    program = Program()
    needs = {n: {r for r in read if r < n} for n, read in enumerate(reads)}
    calls = {
        n: "".join(f"{{{{input:v{r}}}}}" for r in sorted(needs[n])) + f"{{{{output:v{n}}}}}" for n in needs
    }
    wanted = data.draw(st.sampled_from(sorted(needs)))
    submitted: set[int] = set()
    asked = False
    for n in data.draw(st.permutations(sorted(needs))):
        program.submit(calls[n])
        submitted.add(n)
        if not asked and program.session.graph.find(f"v{wanted}") and data.draw(st.booleans()):
            program.get(f"v{wanted}")
            asked = True
    if not asked:
        program.get(f"v{wanted}")
    reached, found = [wanted], {wanted}
    while reached:
        for need in needs[reached.pop()] - found:
            found.add(need)
            reached.append(need)
    urgent = {n for n in needs if task(program, f"v{n}").objective.urgency is Urgency.LATENCY}
    assert urgent == found
