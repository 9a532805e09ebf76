from __future__ import annotations

import math

import pytest

from bench.stats import percentile, ratio_interval


def test_the_ratio_is_the_geometric_mean_of_pairs() -> None:
    ratio, low, high = ratio_interval([2.0, 8.0], [1.0, 1.0])
    assert ratio == pytest.approx(4.0)
    assert low < 4.0 < high
    assert low * high == pytest.approx(16.0)


def test_pairs_that_agree_have_no_spread_whatever_their_sizes() -> None:
    assert ratio_interval([1.5, 15.0, 150.0], [1.0, 10.0, 100.0]) == pytest.approx((1.5, 1.5, 1.5))


def test_the_interval_is_student_s() -> None:
    ratio, low, high = ratio_interval([1.0, 2.0, 4.0], [1.0, 1.0, 1.0])
    half = 4.303 * math.log(2) / math.sqrt(3)
    assert (ratio, low, high) == pytest.approx((2.0, 2 * math.exp(-half), 2 * math.exp(half)))


def test_one_pair_says_nothing_of_the_spread() -> None:
    ratio, low, high = ratio_interval([3.0], [1.0])
    assert ratio == pytest.approx(3.0)
    assert (low, high) == (0.0, math.inf)


def test_pairs_have_to_be_pairs() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio_interval([1.0, 2.0], [1.0])


def test_a_percentile_is_a_sample() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.0) == 1.0
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
