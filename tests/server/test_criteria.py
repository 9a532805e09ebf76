from __future__ import annotations

import pytest

from engine.types import Urgency
from parrot.wire import Criteria, Limits
from server.criteria import LATENCY, THROUGHPUT, Criterion, parse
from server.errors import BadRequest


def test_nothing_means_latency() -> None:
    assert parse(None) == parse("latency") == parse(" Latency ") == LATENCY


def test_throughput_is_the_other_word() -> None:
    assert parse("throughput") == THROUGHPUT


def test_limits_mean_the_same_as_text_and_as_json() -> None:
    expected = Criterion(Urgency.LATENCY, ttft_ms=200.0, tpot_ms=40.0)
    assert parse("ttft_ms:200, tpot_ms:40") == parse(Limits(ttft_ms=200, tpot_ms=40)) == expected


@pytest.mark.parametrize(
    "criteria",
    [
        "",
        "fast",
        "ttft_ms",
        "ttft_ms:",
        "ttft_ms:x",
        "ttft_ms:1,ttft_ms:2",
        "ttft_ms:nan",
        "ttft_ms:-1",
        "ttft_ms:0",
        "deadline_ms:1e300",
        "latency,throughput",
        Limits(),
        Limits(tpot_ms=0),
    ],
)
def test_anything_else_is_refused_by_name(criteria: Criteria) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(criteria, "get.code")
    assert caught.value.info.param == "get.code"
