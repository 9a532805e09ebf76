from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.arrivals import crossing, evenly, find_rate, poisson


def test_the_same_seed_comes_in_the_same_pattern_at_every_rate() -> None:
    slow, fast = poisson(1.0, 50, 7), poisson(10.0, 50, 7)
    assert [at / 10 for at in slow] == pytest.approx(fast)
    assert slow == sorted(slow)
    assert slow != poisson(1.0, 50, 8)


def test_arrivals_come_at_about_their_rate() -> None:
    assert poisson(20.0, 4000, 1)[-1] == pytest.approx(200, rel=0.1)


def test_evenly_leaves_a_gap_before_the_first_and_after_the_last() -> None:
    assert evenly(3, 8.0) == [2.0, 4.0, 6.0]


def test_the_crossing_lies_between_the_last_rate_that_keeps_the_limit_and_the_next() -> None:
    assert crossing([(1.0, 10.0), (4.0, 40.0)], 20.0) == pytest.approx(2.0)
    assert crossing([(4.0, 40.0), (1.0, 10.0)], 40.0) == 4.0
    assert math.isnan(crossing([(1.0, 10.0)], 5.0))


@given(st.floats(0.5, 200.0), st.floats(-6.0, 6.0))
def test_the_rate_that_is_found_is_where_latency_meets_the_limit(knee: float, octaves: float) -> None:
    start = knee * 2**octaves
    rate, points = find_rate(lambda rate: 10.0 * (1 + (rate / knee) ** 4), 20.0, start, halvings=4)
    assert rate == pytest.approx(knee, rel=0.05)
    assert len(points) <= 1 + 9 + 4


def test_a_limit_that_no_rate_keeps_is_found_out() -> None:
    rate, points = find_rate(lambda rate: 100.0, 20.0, 8.0, doublings=3)
    assert math.isnan(rate)
    assert [at for at, _ in points] == [8.0, 4.0, 2.0, 1.0]
