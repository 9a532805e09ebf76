"""What is told of work that only fills the cache."""

from __future__ import annotations

from engine.types import TokenDelta
from server.metrics import Metrics
from server.scheduler.warming import Warming


def ended(id: int, cached: int = 0, computed: int = 0, reason: str = "stop") -> list[TokenDelta]:
    return [
        TokenDelta(id=id, finish_reason=reason, cached_tokens=cached, computed_tokens=computed)  # type: ignore[arg-type]
    ]


def test_tokens_count_as_computed_once_and_as_used_when_they_were_found() -> None:
    metrics = Metrics("m")
    warming = Warming(metrics)
    warming.asked(1, 0, 100)
    warming.report(ended(1, cached=40, computed=100))
    warming.asked(2, 0, 160)
    warming.report([TokenDelta(id=7, token_ids=(1,)), *ended(2, cached=100, computed=160)])
    assert metrics.eager_tokens == 60 + 60
    assert warming.used([1, 2], 130) == 60 + 30
    assert warming.used([1, 2], 130) == 0
    assert warming.num_open == 0


def test_what_was_called_off_or_given_up_counts_as_far_as_it_came() -> None:
    metrics = Metrics("m")
    warming = Warming(metrics)
    for id in (1, 2):
        warming.asked(id, 0, 100)
    warming.called_off(1)
    assert warming.where(1) is None
    warming.report([*ended(1, computed=64, reason="abort"), *ended(2, computed=32, reason="abort")])
    assert metrics.eager_tokens == 64 + 32
    assert warming.used([1, 2], 50) == 50 + 32
    assert metrics.eager_dropped == 1, "the other was not wanted any more"
    assert warming.num_open == 0


def test_where_the_beginning_of_a_prompt_is_known_from_when_it_is_asked_for() -> None:
    warming = Warming(Metrics("m"))
    assert warming.ahead([1]) is None
    warming.asked(1, 3, 100)
    assert warming.ahead([1, 7]) == (3, 100)
    warming.called_off(1)
    warming.report(ended(1, computed=64, reason="abort"))
    assert warming.ahead([1]) == (3, 64)
    warming.asked(2, 3, 200)
    assert warming.ahead([1, 2]) == (3, 200)


def test_what_an_engine_had_is_lost_with_it() -> None:
    metrics = Metrics("m")
    warming = Warming(metrics)
    warming.asked(3, 1, 100)
    warming.engine_down(1)
    assert warming.where(3) is None
    assert warming.used([3], 100) == metrics.eager_tokens == 0
    assert warming.num_open == 0


def test_its_figures_are_scraped() -> None:
    metrics = Metrics("m")
    metrics.eager_tokens, metrics.eager_tokens_used, metrics.eager_dropped = 10, 7, 2
    text = metrics.render()[0].decode()
    assert "parrot:eager_prefill_tokens_total 10.0" in text
    assert "parrot:eager_prefill_tokens_used_total 7.0" in text
    assert "parrot:eager_prefill_dropped_total 2.0" in text
