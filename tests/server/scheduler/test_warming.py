"""What is told of work that only fills the cache."""

from __future__ import annotations

from engine.types import TokenDelta
from server.metrics import Metrics
from server.scheduler.warming import Warming


def ended(id: int, cached: int = 0, reason: str = "stop") -> list[TokenDelta]:
    return [TokenDelta(id=id, finish_reason=reason, cached_tokens=cached)]  # type: ignore[arg-type]


def test_tokens_count_as_computed_once_and_as_used_when_they_were_found() -> None:
    metrics = Metrics("m")
    warming = Warming(metrics)
    warming.asked(1, 0, 100)
    warming.report(ended(1, cached=40))
    warming.asked(2, 0, 160)
    warming.report([TokenDelta(id=7, token_ids=(1,)), *ended(2, cached=100)])
    assert metrics.eager_tokens == 60 + 60
    assert warming.used([1, 2], 130) == 60 + 30
    assert warming.used([1, 2], 130) == 0
    assert warming.num_open == 0


def test_what_was_given_up_or_called_off_or_lost_is_neither() -> None:
    metrics = Metrics("m")
    warming = Warming(metrics)
    for id, engine in ((1, 0), (2, 0), (3, 1)):
        warming.asked(id, engine, 100)
    warming.report(ended(1, reason="abort"))
    assert warming.where(2) == 0
    warming.called_off(2)
    warming.engine_down(1)
    assert warming.where(3) is None
    assert warming.used([1, 2, 3], 100) == metrics.eager_tokens == 0
    assert metrics.eager_dropped == 1
    assert warming.num_open == 0


def test_its_figures_are_scraped() -> None:
    metrics = Metrics("m")
    metrics.eager_tokens, metrics.eager_tokens_used, metrics.eager_dropped = 10, 7, 2
    text = metrics.render()[0].decode()
    assert "parrot:eager_prefill_tokens_total 10.0" in text
    assert "parrot:eager_prefill_tokens_used_total 7.0" in text
    assert "parrot:eager_prefill_dropped_total 2.0" in text
