"""Log-probabilities of a prompt: the model's own, whatever else runs, however it is cut, cached or not."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from engine.config import EngineConfig
from engine.core import EngineCore
from engine.runner.model_runner import ModelRunner
from engine.runner.simulated import load_runner as load_simulated
from engine.types import Abort, Generate, Objective, Ready, SamplingParams, TokenDelta, TokenLogprobs, Urgency
from ops.sampling import log_softmax
from tests.engine.step_driver import StepDriver, load, write_config

IDS = tuple(random.Random(3).randrange(131) for _ in range(150))
SAMPLING = SamplingParams(max_tokens=3, seed=0, temperature=0.0, prompt_logprobs=2)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    folder = write_config(tmp_path_factory.mktemp("model"))
    return load(
        EngineConfig(
            model=str(folder),
            load_format="dummy",
            kv_cache_memory=2 * 2**20,
            max_model_len=512,
            num_threads=1,
        )
    )


def core_of(runner: ModelRunner, *, budget: int = 512, disabled: frozenset[str] = frozenset()) -> EngineCore:
    ready = Ready(
        block_size=runner.block_size,
        num_blocks=runner.num_blocks - 1,
        max_model_len=runner.max_model_len,
        max_num_seqs=8,
        max_num_batched_tokens=budget,
        vocab_size=runner.vocab_size,
        device="cpu",
        dtype="float32",
        kv_cache_bytes=runner.kv_cache_bytes,
    )
    return EngineCore(runner, ready, disabled)


def run(core: EngineCore) -> dict[int, list[TokenDelta]]:
    found: dict[int, list[TokenDelta]] = {}
    while core.has_work:
        for delta in core.step().deltas:
            found.setdefault(delta.id, []).append(delta)
    core.scheduler.check_invariants()
    return found


def scored(core: EngineCore, id: int = 1, ids: tuple[int, ...] = IDS) -> tuple[TokenLogprobs, ...]:
    core.take(Generate(id, ids, SAMPLING))
    return run(core)[id][0].prompt_logprobs


@pytest.fixture(scope="module")
def alone(runner: ModelRunner) -> tuple[TokenLogprobs, ...]:
    return scored(core_of(runner))


def test_they_are_the_log_softmax_of_the_models_logits(
    runner: ModelRunner, alone: tuple[TokenLogprobs, ...]
) -> None:
    driver = StepDriver(runner, random.Random(0))
    driver.add("a", IDS)
    logits = driver.run_alone("a", chunk=1)
    assert len(alone) == len(IDS) - 1
    for position, (target, found) in enumerate(zip(IDS[1:], alone, strict=True)):
        values = log_softmax(logits[position].float().numpy())
        assert found.logprob == values[target]
        assert found.rank == int((values > values[target]).sum()) + 1
        assert [top.token_id for top in found.top] == np.argsort(-values, kind="stable")[:2].tolist()


@pytest.mark.parametrize("budget", [7, 64, 100])
def test_they_do_not_depend_on_how_the_prompt_is_cut(
    runner: ModelRunner, alone: tuple[TokenLogprobs, ...], budget: int
) -> None:
    assert scored(core_of(runner, budget=budget)) == alone


def test_they_do_not_depend_on_what_is_cached_or_runs_beside(
    runner: ModelRunner, alone: tuple[TokenLogprobs, ...]
) -> None:
    core = core_of(runner, budget=96)
    plain = SamplingParams(max_tokens=8, seed=0, temperature=0.0)
    core.take(Generate(7, IDS, plain))
    run(core)
    core.take(Generate(8, IDS[:70], plain))
    core.step()
    core.take(Generate(9, IDS[::-1], SAMPLING))
    core.take(Generate(1, IDS, SAMPLING))
    found = run(core)
    assert found[1][0].prompt_logprobs == alone
    assert found[1][0].cached_tokens == 0
    core.take(Generate(2, IDS, plain))
    assert run(core)[2][0].cached_tokens > 100, "what was computed for them serves others"


def test_only_the_first_delta_has_them_and_an_output_is_the_same(runner: ModelRunner) -> None:
    core = core_of(runner)
    core.take(Generate(1, IDS, SAMPLING))
    first, *rest = run(core)[1]
    assert first.prompt_logprobs
    assert not any(delta.prompt_logprobs for delta in rest)
    core.take(Generate(2, IDS, SamplingParams(max_tokens=3, seed=0, temperature=0.0)))
    plain = run(core)[2]
    assert [delta.token_ids for delta in plain] == [delta.token_ids for delta in (first, *rest)]
    assert not any(delta.prompt_logprobs for delta in plain)


def test_one_that_is_set_back_starts_them_again(
    runner: ModelRunner, alone: tuple[TokenLogprobs, ...]
) -> None:
    core = core_of(runner, budget=64)
    urgent = Objective(Urgency.LATENCY)
    core.take(Generate(1, IDS, SAMPLING, objective=Objective(Urgency.THROUGHPUT)))
    core.step()
    long = SamplingParams(max_tokens=60, seed=0, temperature=0.0, ignore_eos=True)
    for id in range(10, 18):  # as many as there are slots: the patient one has to leave its own
        core.take(Generate(id, tuple((id + i) % 131 for i in range(20)), long, objective=urgent))
    reports = []
    while core.has_work:
        reports.append(core.step())
    assert sum(report.num_preemptions for report in reports) >= 1
    (first,) = [
        delta for report in reports for delta in report.deltas if delta.id == 1 and delta.prompt_logprobs
    ]
    assert first.prompt_logprobs == alone


def test_a_later_life_does_not_compute_them_again(runner: ModelRunner) -> None:
    core = core_of(runner)
    core.take(Generate(1, IDS, SAMPLING, num_generated=1))
    assert not any(delta.prompt_logprobs for delta in run(core)[1])


def test_one_that_is_aborted_leaves_nothing(runner: ModelRunner) -> None:
    core = core_of(runner, budget=16)
    core.take(Generate(1, IDS, SAMPLING))
    core.step()
    core.take(Abort(1))
    assert run(core) == {}


def test_a_prompt_of_one_token_has_none(runner: ModelRunner) -> None:
    assert scored(core_of(runner), ids=(5,)) == ()


def test_the_simulated_engine_gives_as_many(tmp_path: Path) -> None:
    bundled = Path(__file__).parents[2] / "models" / "parrot-tales"
    config = EngineConfig(kind="sim", model=str(bundled), max_num_batched_tokens=64)
    loaded = load_simulated(config, lambda stage, fraction: None)
    core = EngineCore(loaded.runner, loaded.ready, frozenset())
    assert len(scored(core)) == len(IDS) - 1
