"""What the scheduler takes an engine's cache to hold."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from server.scheduler.events import TaskSpec
from server.scheduler.residency import Residency, footprint
from tests.server.scheduler.scheduling import spec


def prompt(task_id: int, text: str, output: int = 10) -> TaskSpec:
    """A prompt with a boundary after every letter, ten tokens each."""
    boundaries = tuple((text[:end].encode(), 10 * end) for end in range(1, len(text) + 1))
    return spec(task_id, tokens=10 * len(text), output=output, prefixes=boundaries)


def test_prompts_with_a_common_beginning_take_it_once() -> None:
    residency = Residency(1000)
    residency.hold(prompt(1, "abc"))
    assert residency.held == 40
    residency.hold(prompt(2, "abd"))
    assert residency.held == 60
    residency.release(prompt(1, "abc"))
    assert (residency.held, residency.idle) == (40, 10)
    assert residency.known(prompt(3, "abcx")) == 30
    assert residency.known(prompt(3, "xbc")) == 0


def test_what_ended_longest_ago_is_forgotten_first_and_longer_prefixes_before_shorter_ones() -> None:
    residency = Residency(100)
    for number, text in enumerate(("abc", "xyz")):
        residency.hold(prompt(number, text))
        residency.release(prompt(number, text))
    assert residency.idle == 60
    residency.hold(prompt(2, "12345"))
    assert residency.held + residency.idle == 100
    assert residency.known(prompt(3, "abc")) == 10
    assert residency.known(prompt(3, "xyz")) == 30
    residency.resize(80)
    assert residency.known(prompt(3, "abc")) == 0
    assert residency.known(prompt(3, "xyz")) == 20


def test_what_is_held_is_never_forgotten() -> None:
    residency = Residency(20)
    residency.hold(prompt(1, "abc"))
    residency.hold(prompt(2, "xyz"))
    assert residency.held == 80
    assert residency.known(prompt(3, "abc")) == 30
    residency.release(prompt(1, "abc"))
    residency.release(prompt(2, "xyz"))
    assert (residency.held, residency.idle) == (0, 20)


def test_a_shorter_expected_output_takes_less() -> None:
    long = TaskSpec(task_id=1, app="a", num_tokens=5, max_tokens=100, expected_tokens=7)
    assert footprint(long) == 12
    assert footprint(TaskSpec(task_id=1, app="a", num_tokens=5, max_tokens=3, expected_tokens=7)) == 8


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.booleans(), st.text("ab", max_size=5)), max_size=30), st.integers(1, 200))
def test_tokens_add_up_whatever_comes_and_goes(changes: list[tuple[bool, str]], capacity: int) -> None:
    residency, there = Residency(capacity), list[TaskSpec]()
    for number, (comes, text) in enumerate(changes):
        if comes or not there:
            there.append(prompt(number, text))
            residency.hold(there[-1])
        else:
            residency.release(there.pop(len(text) % len(there)))
        residency.check_invariants(there)
        for held in there:
            assert residency.known(held) == held.num_tokens
