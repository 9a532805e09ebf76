"""Steps that are launched before the one before them is known: same tokens, overshoot dropped, blocks kept safe."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import pytest

from engine.batch import DeviceLost, SampledTokens, ScheduledBatch
from engine.core import EngineCore
from engine.types import Abort, Generate, SamplingParams, StepReport
from tests.engine.paged_runner import READY, PagedRunner, expected_tokens

VOCAB = 100


@dataclass
class Queued:
    """A step on the device's queue; nothing of it is computed before somebody waits for it."""

    runner: LateRunner
    batch: ScheduledBatch

    def result(self) -> SampledTokens:
        runner = self.runner
        runner.deepest = max(runner.deepest, len(runner.queue))
        assert runner.queue.popleft() is self, "steps end in their order"
        if runner.fails_at == self.batch.step_id:
            raise runner.failure
        return runner.run(self.batch)


class LateRunner(PagedRunner):
    """A device that is as late as it may be. refuses, fails_at: the step that cannot be launched, or computed."""

    def __init__(self) -> None:
        super().__init__(num_blocks=33, block_size=64, max_model_len=2048, vocab_size=VOCAB)
        self.queue: deque[Queued] = deque()
        self.deepest = 0
        self.refuses: int | None = None
        self.fails_at: int | None = None
        self.failure: Exception = ValueError("a kernel exploded")

    def launch(self, batch: ScheduledBatch) -> Queued:
        if self.refuses == batch.step_id:
            raise ValueError("a kernel cannot be launched")
        self.queue.append(Queued(self, batch))
        return self.queue[-1]


@pytest.fixture
def runner() -> LateRunner:
    return LateRunner()


@pytest.fixture
def core(runner: LateRunner) -> EngineCore:
    return EngineCore(runner, READY, disabled=frozenset())


def a_request(request_id: int, length: int = 300, **sampling: object) -> Generate:
    params = {"max_tokens": 9, "seed": request_id, **sampling}
    ids = (*(i % VOCAB for i in range(length - 1)), request_id)
    return Generate(request_id, ids, SamplingParams(**params))  # type: ignore[arg-type]


def run(core: EngineCore) -> tuple[dict[int, list[int]], dict[int, str | None], list[StepReport]]:
    """Tokens and finish reasons by request, and all reports."""
    tokens: dict[int, list[int]] = {}
    reasons: dict[int, str | None] = {}
    reports = []
    while core.has_work:
        reports.append(core.step())
        core.scheduler.check_invariants()
        for delta in reports[-1].deltas:
            tokens.setdefault(delta.id, []).extend(delta.token_ids)
            reasons[delta.id] = delta.finish_reason
    return tokens, reasons, reports


def a_stop(request: Generate, after: int) -> Generate:
    """The same request, which stops at the token that it generates as its `after`th."""
    tokens, _ = expected_tokens(request.token_ids, request.sampling, VOCAB, 2048)
    stops_at = next(token for token in tokens[after:] if token not in tokens[:after])
    return a_request(request.id, len(request.token_ids), stop_token_ids=(stops_at,))


def test_tokens_are_those_of_sequences_that_run_alone(core: EngineCore, runner: LateRunner) -> None:
    requests = [a_request(index, length) for index, length in enumerate((300, 300, 5, 700, 64))]
    for request in requests:
        core.take(request)
    tokens, reasons, _ = run(core)
    for request in requests:
        expected, reason = expected_tokens(request.token_ids, request.sampling, VOCAB, 2048)
        assert tokens[request.id] == expected
        assert reasons[request.id] == reason
    assert runner.deepest == 2, "a step is launched while another one runs"


def test_without_overlap_every_step_is_waited_for(runner: LateRunner) -> None:
    core = EngineCore(runner, READY, disabled=frozenset({"overlap"}))
    core.take(a_request(1))
    _, _, reports = run(core)
    assert runner.deepest == 1
    assert sum(len(report.deltas) for report in reports) == 9


def test_what_runs_beyond_a_stop_is_dropped_and_not_reported(core: EngineCore, runner: LateRunner) -> None:
    request = a_stop(a_request(3, 100), after=4)
    expected, _ = expected_tokens(request.token_ids, request.sampling, VOCAB, 2048)
    core.take(request)
    tokens, reasons, reports = run(core)
    assert tokens[3] == expected
    assert reasons[3] == "stop"
    last = next(
        index for index, report in enumerate(reports) if report.deltas and report.deltas[-1].finish_reason
    )
    assert not any(report.deltas for report in reports[last + 1 :])
    assert runner.num_computed == 100 + len(expected) + 1, "one token too many was computed"
    assert core.scheduler.tables.pool.num_available == 32


def test_blocks_of_a_sequence_that_ended_are_free_one_step_later(runner: LateRunner) -> None:
    core = EngineCore(runner, READY, disabled=frozenset({"prefix-cache"}))
    core.take(a_stop(a_request(3, 70), after=2))
    core.take(a_request(4, 20, max_tokens=40))
    pool = core.scheduler.tables.pool
    while not any(delta.id == 3 and delta.finish_reason for delta in core.step().deltas):
        assert pool.num_quarantined == 0
    assert pool.num_quarantined == 2, "the step in flight may still write to them"
    core.step()
    assert (pool.num_quarantined, pool.num_free) == (0, 31)
    run(core)


def test_an_abort_between_launch_and_result_leaves_nothing(core: EngineCore) -> None:
    core.take(a_request(1, 64))
    core.take(a_request(2, 64))
    core.step()
    core.step()
    core.take(Abort(1))
    tokens, _, _ = run(core)
    request = a_request(2, 64)
    assert tokens[2][-1:] == expected_tokens(request.token_ids, request.sampling, VOCAB, 2048)[0][-1:]
    assert 1 not in tokens
    assert core.scheduler.tables.pool.num_available == 32


@pytest.mark.parametrize("when", ["launch", "result"])
def test_a_step_that_fails_sets_its_sequences_back_and_they_go_on(
    core: EngineCore, runner: LateRunner, when: str
) -> None:
    requests = [a_request(index, 64) for index in range(3)]
    for request in requests:
        core.take(request)
    if when == "launch":
        runner.refuses = 4
    else:
        runner.fails_at = 4
    tokens, _, _ = run(core)
    for request in requests:
        assert tokens[request.id] == expected_tokens(request.token_ids, request.sampling, VOCAB, 2048)[0]


def test_a_lost_device_is_nobodys_fault_and_goes_up(core: EngineCore, runner: LateRunner) -> None:
    runner.fails_at, runner.failure = 2, DeviceLost("an illegal memory access")
    core.take(a_request(1))
    with pytest.raises(DeviceLost, match="illegal"):
        run(core)


def test_every_token_that_is_computed_is_counted_once(core: EngineCore, runner: LateRunner) -> None:
    core.take(a_request(1, 300))
    core.take(a_request(2, 40))
    _, _, reports = run(core)
    assert sum(report.num_tokens for report in reports) == runner.num_computed
