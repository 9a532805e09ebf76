"""Steps that fail as they are told to, and what a core makes of each failure."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

import pytest

from engine.batch import Launched, SampledTokens, ScheduledBatch
from engine.core import EngineCore
from engine.runner.injection import Fault, faulty
from engine.types import Generate, SamplingParams
from tests.engine.paged_runner import READY, PagedRunner, expected_tokens

COUNT = 4


class LaunchingRunner(PagedRunner):
    """As on a GPU: a step is launched before the one before it is looked at."""

    def launch(self, batch: ScheduledBatch) -> Launched:
        return _Done(self.run(batch))


class _Done:
    def __init__(self, results: SampledTokens) -> None:
        self._results = results

    def result(self) -> SampledTokens:
        return self._results


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.CRITICAL)
    yield
    for fault in Fault:
        signal.signal(fault.signal, signal.SIG_DFL)


def requests() -> list[Generate]:
    return [
        Generate(id, tuple((id * 31 + at) % 100 for at in range(80)), SamplingParams(max_tokens=6, seed=id))
        for id in range(COUNT)
    ]


def after(fault: Fault, runner: PagedRunner) -> dict[int, tuple[int, ...] | str]:
    """By request, its tokens or its error, when the third step gets the fault."""
    wrapped = faulty(runner)
    core = EngineCore(wrapped, READY, disabled=frozenset())
    for request in requests():
        core.take(request)
    tokens: dict[int, tuple[int, ...]] = dict.fromkeys(range(COUNT), ())
    errors: dict[int, str] = {}
    steps = 0
    while core.has_work:
        steps += 1
        if steps == 3:
            os.kill(os.getpid(), fault.signal)
        for delta in core.step().deltas:
            tokens[delta.id] += delta.token_ids
            if delta.error is not None:
                errors[delta.id] = delta.error
        core.scheduler.check_invariants()
    assert core.scheduler.tables.pool.num_available == READY.num_blocks
    return tokens | errors


@pytest.fixture(params=[PagedRunner, LaunchingRunner])
def runner(request: pytest.FixtureRequest) -> PagedRunner:
    made = request.param(num_blocks=33, block_size=64, max_model_len=2048, vocab_size=100)
    assert isinstance(made, PagedRunner)
    return made


UNDISTURBED = {
    request.id: tuple(expected_tokens(request.token_ids, request.sampling, 100, 2048)[0])
    for request in requests()
}


@pytest.mark.parametrize("fault", [Fault.BEGIN, Fault.END, Fault.MEMORY])
def test_a_step_that_raises_once_is_noticed_by_nobody(fault: Fault, runner: PagedRunner) -> None:
    assert after(fault, runner) == UNDISTURBED


@pytest.mark.parametrize("fault", [Fault.SAMPLE, Fault.CURSE])
def test_what_is_wrong_with_one_sequence_ends_that_one(fault: Fault, runner: PagedRunner) -> None:
    ended = after(fault, runner)
    (hit,) = (id for id, tokens in ended.items() if isinstance(tokens, str))
    assert "injected into a s" in str(ended.pop(hit))
    assert ended == {id: tokens for id, tokens in UNDISTURBED.items() if id != hit}


def test_a_runner_that_can_allocate_for_nobody_ends_its_engine(runner: PagedRunner) -> None:
    with pytest.raises(MemoryError):
        after(Fault.STARVE, runner)
