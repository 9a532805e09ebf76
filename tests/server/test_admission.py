"""What the queue takes and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.admission import Admission, Bounds
from server.errors import TooManyRequests


def an_admission(
    seats: int = 2, requests: int = 1, tokens: int = 1000, per_key: int | None = None
) -> Admission:
    return Admission(Bounds(seats, requests, tokens, per_key))


def test_the_queue_begins_where_the_engines_are_full() -> None:
    admission = an_admission()
    for app in ("a", "b", "c"):
        admission.check("t")
        admission.taken("t", app, 10)
    with pytest.raises(TooManyRequests, match="--max-queued-requests") as refused:
        admission.check("t")
    assert refused.value.retry_after == 1.0
    admission.ended("t", "a", 10)
    admission.check("t")


def test_engines_that_run_more_than_was_thought_make_room() -> None:
    admission = an_admission()
    for app in ("a", "b", "c"):
        admission.taken("t", app, 10)
    admission.open_seats(3)
    assert admission.queued == 0
    admission.check("t")


def test_prompt_tokens_count_until_the_first_token() -> None:
    admission = an_admission(seats=10)
    admission.taken("t", "a", 900)
    with pytest.raises(TooManyRequests, match="--max-queued-tokens"):
        admission.check("t", tokens=101)
    admission.started(900, 0.0)
    admission.check("t", tokens=101)
    admission.ended("t", "a", 0)
    assert admission.queued_tokens == 0


def test_an_empty_queue_takes_a_request_of_any_size() -> None:
    an_admission(seats=1, requests=1, tokens=10).check("t", requests=100, tokens=10_000)


def test_requests_of_one_application_count_for_a_key_as_well() -> None:
    admission = an_admission(seats=100, per_key=2)
    admission.taken("t", "program", 1)
    admission.check("t", alongside=1)
    with pytest.raises(TooManyRequests, match="--max-concurrency-per-key"):
        admission.check("t", alongside=2)


def test_a_key_has_a_bound_of_its_own_and_others_are_not_concerned() -> None:
    admission = an_admission(seats=100, per_key=1)
    admission.taken("t", "session", 1)
    with pytest.raises(TooManyRequests, match="--max-concurrency-per-key"):
        admission.check("t")
    admission.check("t", "session")
    admission.check("other")
    admission.check("t", per_key=2)
    admission.ended("t", "session", 1)
    admission.check("t")


def test_retry_after_is_how_long_the_queue_takes_at_the_present_pace() -> None:
    admission = an_admission(seats=1, requests=100)
    for number in range(101):
        admission.taken("t", str(number), 1)
        admission.started(1, number * 0.5)
    with pytest.raises(TooManyRequests) as refused:
        admission.check("t")
    assert refused.value.retry_after == pytest.approx(50.0, rel=0.1)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.booleans()), max_size=30))
def test_all_counts_return_to_nothing(work: list[tuple[str, str, bool]]) -> None:
    admission = an_admission()
    for tenant, app, _ in work:
        admission.taken(tenant, app, 5)
        admission.check_invariants()
    for tenant, app, starts in work:
        if starts:
            admission.started(5, 0.0)
        admission.ended(tenant, app, 0 if starts else 5)
        admission.check_invariants()
    assert (admission.in_flight, admission.queued_tokens) == (0, 0)
