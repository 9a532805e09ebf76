"""When tasks are likely to run, and what is wanted next of what they leave in the cache."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from server.graph.call import Task
from server.graph.forecast import Forecast, NextUse, leading_constants
from tests.server.session.programs import Program

LENGTH = 10
"""Expected tokens of every output; a task takes one step more."""


def length(task: Task) -> int:
    return LENGTH


class Predicted:
    """A program and its forecast."""

    def __init__(self, *calls: str, variables: dict[str, str] | None = None) -> None:
        self.program = Program()
        self.program.submit(*calls, variables=variables)
        self.forecast = Forecast()
        self.forecast.add(self.program.session.graph.tasks.values(), length)

    def task(self, output: str) -> Task:
        found = self.program.session.variable(output).producer
        assert found is not None
        return found

    def finish(self, output: str) -> list[NextUse]:
        task = self.task(output)
        self.program.finish(task, "x", 1)
        self.forecast.ended(task)
        self.forecast.check_invariants()
        return list(self.forecast.next_uses(task))


def test_agents_in_turn_want_their_own_prompt_again_after_all_the_others() -> None:
    calls, last = [], "start"
    for turn in range(6):
        calls.append(f"You are agent {turn % 3}. {{{{input:{last}}}}} Answer: {{{{output:t{turn}}}}}")
        last = f"t{turn}"
    predicted = Predicted(*calls, variables={"start": "go"})
    assert predicted.finish("t0") == [NextUse(1, 2 * (LENGTH + 1))]
    assert predicted.finish("t1") == [NextUse(1, 2 * (LENGTH + 1))]
    assert predicted.finish("t2") == [NextUse(1, 2 * (LENGTH + 1))]
    assert predicted.finish("t3") == [], "nobody speaks as agent 0 any more"


def test_the_next_output_of_a_call_goes_on_where_the_last_one_ended() -> None:
    predicted = Predicted("Plan: {{output:a}} then {{input:x}} {{output:b}}", "{{output:x}}")
    assert predicted.finish("a") == [NextUse(2, 1)]
    predicted.finish("x")
    assert predicted.finish("b") == []


def test_a_consumer_that_repeats_prompt_and_output_continues_both() -> None:
    predicted = Predicted("Q: {{input:q}} A: {{output:a}}", "Q: {{input:q}} A: {{input:a}} {{output:b}}")
    predicted.program.set("q", "why")
    assert predicted.finish("a") == [NextUse(4, 1)]


def test_the_longest_boundary_comes_first_and_shorter_ones_only_when_wanted_sooner() -> None:
    predicted = Predicted(
        "S {{input:doc}} {{output:a}}",
        "{{input:a}}{{output:wait}}",
        "S {{input:wait}} {{output:b}}",
        "S {{input:doc}} and {{input:b}} {{output:c}}",
        variables={"doc": "text"},
    )
    assert predicted.finish("a") == [NextUse(2, 1 + 2 * LENGTH + 1), NextUse(1, LENGTH + 1)]


def test_transforms_and_other_variables_are_other_prefixes() -> None:
    predicted = Predicted(
        "S {{input:d}} {{output:a}}",
        "T {{input:a}}{{output:b}}",
        "{{input:a}}{{output:c}}",
        variables={"d": ""},
    )
    assert predicted.finish("a") == []


def test_what_begins_a_template_is_its_text_up_to_the_first_placeholder() -> None:
    predicted = Predicted("S {{input:d}} {{output:a}}", "{{output:b}}")
    assert leading_constants(predicted.task("a").call) == 1
    assert leading_constants(predicted.task("b").call) == 0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 7), max_size=3), min_size=1, max_size=8))
def test_whatever_the_graph_nothing_is_left_when_all_has_ended(reads: list[list[int]]) -> None:
    calls = [
        "S" + "".join(f"{{{{input:v{r}}}}}" for r in sorted(set(read)) if r < n) + f"{{{{output:v{n}}}}}"
        for n, read in enumerate(reads)
    ]
    predicted = Predicted(*calls)
    assert predicted.forecast.remaining == len(calls) * (LENGTH + 1)
    for n in range(len(calls)):
        uses = predicted.finish(f"v{n}")
        steps = [use.steps for use in uses]
        assert steps == sorted(steps, reverse=True)
        assert all(step >= 1 for step in steps)
        predicted.forecast.ended(predicted.task(f"v{n}"))  # a second time is none
    assert predicted.forecast.remaining == 0


def test_what_follows_a_task_is_the_longest_way_to_the_end_and_no_more_than_is_left() -> None:
    predicted = Predicted("{{output:a}}", "{{output:b}}", "{{input:a}}{{input:b}}{{output:c}}")
    assert [predicted.forecast.following(predicted.task(name)) for name in "abc"] == [
        LENGTH + 1,
        LENGTH + 1,
        0,
    ]
    for name in "abc":
        predicted.finish(name)
    predicted.program.submit("{{output:d}}")
    predicted.forecast.add([predicted.task("d")], length)
    assert predicted.forecast.following(predicted.task("d")) == 0


def test_a_prompt_is_at_home_where_the_most_of_its_beginning_ran_last() -> None:
    predicted = Predicted(
        "S {{input:doc}} {{output:a}}",
        "S {{input:a}} {{output:b}}",
        "S {{input:doc}} and {{input:b}} {{output:c}}",
        "Else {{input:b}} {{output:d}}",
        variables={"doc": "text"},
    )
    assert predicted.forecast.home(predicted.task("c")) is None
    predicted.forecast.ran(predicted.task("a"), 2)
    predicted.forecast.ran(predicted.task("b"), 1)
    assert predicted.forecast.home(predicted.task("c")) == 2, (
        "both share its first constant, one the document too"
    )
    assert predicted.forecast.home(predicted.task("d")) is None
