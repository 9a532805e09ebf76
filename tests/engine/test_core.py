"""A step of the core: what it reports, and what it survives."""

from __future__ import annotations

import logging

import pytest

from engine.batch import SampledTokens, ScheduledBatch
from engine.core import EngineCore
from engine.types import (
    Abort,
    Generate,
    Hint,
    Objective,
    Reprioritise,
    SamplingParams,
    StepReport,
    Warm,
)
from tests.engine.paged_runner import READY, PagedRunner


class BreakableRunner(PagedRunner):
    """Raises while `broken`."""

    broken = False

    def run(self, batch: ScheduledBatch) -> SampledTokens:
        if self.broken:
            raise ValueError("a kernel exploded")
        return super().run(batch)


@pytest.fixture
def runner() -> BreakableRunner:
    return BreakableRunner(num_blocks=33, block_size=64, max_model_len=2048, vocab_size=100)


@pytest.fixture
def core(runner: BreakableRunner) -> EngineCore:
    return EngineCore(runner, READY, disabled=frozenset())


def a_request(request_id: int, length: int = 600, max_tokens: int = 4) -> Generate:
    tokens = tuple(i % 100 for i in range(length - 1))
    return Generate(request_id, (*tokens, request_id), SamplingParams(max_tokens=max_tokens, seed=request_id))


def run(core: EngineCore) -> list[StepReport]:
    reports = []
    while core.has_work:
        reports.append(core.step())
        core.scheduler.check_invariants()
    return reports


def test_a_report_says_what_the_step_did(core: EngineCore) -> None:
    for index in range(3):
        core.take(a_request(index))
    reports = run(core)
    assert [report.step_id for report in reports] == list(range(1, len(reports) + 1))
    assert reports[0].num_tokens == 256
    assert (reports[0].num_running, reports[0].num_waiting) == (1, 2)
    assert sum(report.prefix_queries for report in reports) == 1800
    assert sum(report.prefix_hits for report in reports) == 2 * 599
    assert max(report.shared_kv_bytes for report in reports) == 2 * 512 * 10
    assert reports[-1].free_blocks == 32
    assert all(report.step_ms > 0 for report in reports)


def test_requests_of_every_kind_take_effect_between_steps(core: EngineCore) -> None:
    core.take(a_request(1))
    core.take(a_request(2))
    core.step()
    core.take(Reprioritise(2, Objective(), (0,)))
    core.take(Hint((1, 2, 3), next_use=4))
    core.take(Warm(3, (5, 6, 7)))
    core.take(Abort(1))
    ended = [delta.id for report in run(core) for delta in report.deltas if delta.finish_reason]
    assert sorted(ended) == [2, 3]


def test_a_runner_that_raises_ends_only_what_it_cannot_run_alone(
    core: EngineCore, runner: BreakableRunner, caplog: pytest.LogCaptureFixture
) -> None:
    for index in range(4):
        core.take(a_request(index, length=50))
    core.step()
    runner.poison.add(2)
    with caplog.at_level(logging.CRITICAL):
        deltas = [delta for report in run(core) for delta in report.deltas if delta.finish_reason]
    assert {delta.id: delta.finish_reason for delta in deltas} == {
        0: "length",
        1: "length",
        2: "error",
        3: "length",
    }
    assert any(delta.error == "the model failed: RuntimeError: poisoned" for delta in deltas)


def test_a_runner_that_is_broken_for_a_while_ends_its_requests_and_serves_the_next(
    core: EngineCore, runner: BreakableRunner, caplog: pytest.LogCaptureFixture
) -> None:
    for index in range(3):
        core.take(a_request(index, length=50))
    runner.broken = True
    with caplog.at_level(logging.CRITICAL):
        deltas = [delta for report in run(core) for delta in report.deltas]
    assert sorted((delta.id, delta.finish_reason) for delta in deltas) == [
        (0, "error"),
        (1, "error"),
        (2, "error"),
    ]
    runner.broken = False
    core.take(a_request(7, length=50))
    assert run(core)[-1].deltas[0].finish_reason == "length"


def test_a_request_that_cannot_run_is_reported_without_a_step(core: EngineCore) -> None:
    core.take(a_request(1, length=3000))
    (report,) = run(core)
    assert report.num_tokens == 0
    assert report.deltas[0].finish_reason == "error"
