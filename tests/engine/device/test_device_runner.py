"""The GPU's runner under the interpreter gives the logits and tokens of the CPU's, whatever the schedule."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from engine.batch import ScheduledBatch, ScheduledSequence, SlotInstall
from engine.config import EngineConfig
from engine.core import EngineCore
from engine.plan import Rows, build_plan
from engine.runner.cpu_loader import load_runner
from engine.runner.device_loader import load_onto
from engine.runner.device_runner import DeviceRunner
from engine.runner.loaded import LoadedRunner
from engine.types import Generate, Objective, SamplingParams, Urgency
from tests.engine.step_driver import GREEDY, StepDriver
from tests.engine.test_model_families import Checkpoint

TINY: dict[str, object] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
}
FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": 20}),
}
BLOCK = 2 * 2 * 16 * 16 * 4
"""Bytes of a block: keys and values of 2 heads, 16 tokens of 16 numbers in fp32."""


@pytest.fixture(scope="module", params=list(FAMILIES))
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EngineConfig:
    family, changes = FAMILIES[request.param]
    folder = Checkpoint(tmp_path_factory.mktemp("model"), family, {**TINY, **changes}).folder
    return EngineConfig(
        model=str(folder),
        dtype="float32",
        kv_cache_memory=12 * BLOCK,
        block_size=16,
        max_num_seqs=4,
        max_num_batched_tokens=24,
        max_model_len=64,
        num_threads=1,
    )


def on_device(config: EngineConfig) -> LoadedRunner:
    return load_onto(torch.device("cpu"), config, lambda stage, fraction: None)


def on_cpu(config: EngineConfig) -> LoadedRunner:
    return load_runner(config, lambda stage, fraction: None)


def _ids(length: int, seed: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(96), k=length))


def _logits(loaded: LoadedRunner) -> Iterator[torch.Tensor]:
    """Two chunks of one sequence, a cache hit of another one, and a step of both."""
    driver = StepDriver(loaded.runner, random.Random(1), shuffled=True)  # type: ignore[arg-type]
    trunk = _ids(16, 0)
    driver.add("a", trunk + _ids(9, 1))
    yield from driver.step({"a": 20}).values()
    driver.add("b", trunk + _ids(4, 2), prefix_of="a", cached=16)
    yield from driver.step({"a": 4, "b": 3}).values()
    yield from driver.step({"a": 1, "b": 1}).values()


def test_logits_are_those_of_the_cpu(config: EngineConfig) -> None:
    pairs = list(zip(_logits(on_device(config)), _logits(on_cpu(config)), strict=True))
    assert len(pairs) == 5
    for found, expected in pairs:
        assert (found - expected).norm() < 1e-4 * expected.norm()


def test_logits_in_fp16_are_near_those_of_fp32(config: EngineConfig) -> None:
    if "Llama" not in Path(config.model, "config.json").read_text():
        pytest.skip("one family is enough")
    half = msgspec.structs.replace(config, dtype="float16")
    for found, expected in zip(_logits(on_device(half)), _logits(on_cpu(config)), strict=True):
        assert found.dtype == torch.float16
        assert (found.float() - expected).norm() < 1e-2 * expected.norm()


def _generate(loaded: LoadedRunner, config: EngineConfig) -> tuple[dict[int, list[int]], int, int]:
    """Tokens by request, preemptions, prompt tokens that were found."""
    core = EngineCore(loaded.runner, loaded.ready, config.disabled)
    trunk = _ids(16, 0)
    seeded = SamplingParams(max_tokens=4, seed=9, temperature=0.9, presence_penalty=0.3)
    later = Objective(Urgency.THROUGHPUT)
    core.take(Generate(0, trunk + _ids(3, 3), msgspec.structs.replace(GREEDY, max_tokens=7), later))
    core.take(Generate(1, trunk + _ids(1, 4), seeded, later))
    tokens: dict[int, list[int]] = {0: [], 1: [], 2: []}
    preemptions = hits = steps = 0
    while core.has_work:
        report = core.step()
        core.scheduler.check_invariants()
        preemptions += report.num_preemptions
        hits += report.prefix_hits
        for delta in report.deltas:
            assert delta.error is None
            tokens[delta.id] += delta.token_ids
        steps += 1
        if steps == 4:
            core.take(Generate(2, _ids(34, 5), msgspec.structs.replace(seeded, seed=1)))
    return tokens, preemptions, hits


def test_tokens_are_those_of_the_cpu_with_hits_and_preemption(config: EngineConfig) -> None:
    if "Qwen3" not in Path(config.model, "config.json").read_text():
        pytest.skip("one family is enough, families are for the test of logits")
    small = msgspec.structs.replace(config, kv_cache_memory=5 * BLOCK)
    expected, preemptions, hits = _generate(on_cpu(small), small)
    assert preemptions > 0
    assert hits >= 16
    found, preemptions, _ = _generate(on_device(small), small)
    assert found == expected
    assert preemptions > 0
    assert [len(tokens) for tokens in found.values()] == [7, 4, 4]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> DeviceRunner:
    """One model for what does not depend on the family; deterministic."""
    folder = Checkpoint(tmp_path_factory.mktemp("model"), "Llama", TINY).folder
    config = EngineConfig(
        model=str(folder),
        dtype="float32",
        kv_cache_memory=12 * BLOCK,
        block_size=16,
        max_num_seqs=4,
        max_num_batched_tokens=8,
        max_model_len=64,
        deterministic=True,
    )
    loaded = on_device(config).runner
    assert isinstance(loaded, DeviceRunner)
    return loaded


def _prefill(
    step: int, ids: dict[int, tuple[int, ...]], params: SamplingParams = GREEDY, targets: bool = False
) -> ScheduledBatch:
    """Whole prompts by slot; slot s has blocks 2s + 1 and 2s + 2."""
    blocks: dict[int, tuple[int, ...]] = {slot: (2 * slot + 1, 2 * slot + 2) for slot in ids}
    sequences = tuple(
        ScheduledSequence(slot, 0, len(own), own, True, own[1:] if targets else (), 2 if targets else 0)
        for slot, own in ids.items()
    )
    return ScheduledBatch(
        step,
        sequences,
        build_plan([Rows(0, len(own), list(blocks[slot])) for slot, own in ids.items()], 16, share=True),
        installs=tuple(SlotInstall(slot, params, own) for slot, own in ids.items()),
        block_tables=blocks,
    )


def test_deterministic_logits_do_not_depend_on_the_batch(runner: DeviceRunner) -> None:
    together = runner.forward(_prefill(1, {0: _ids(5, 1), 1: _ids(9, 2), 2: _ids(1, 3)}))
    for row, (slot, ids) in enumerate({0: _ids(5, 1), 1: _ids(9, 2), 2: _ids(1, 3)}.items()):
        assert torch.equal(runner.forward(_prefill(2 + row, {slot: ids}))[0], together[row])


def test_an_id_that_is_not_in_the_vocabulary_fails_its_sequence_alone(runner: DeviceRunner) -> None:
    good, bad = runner.run(_prefill(1, {0: (5, 6, 7), 1: (5, 96, 7)})).tokens
    assert bad.error == "a token id is not in the vocabulary"
    assert good.error is None
    assert good.token_id == runner.run(_prefill(2, {0: (5, 6, 7)})).tokens[0].token_id


def test_nan_fails_its_sequence_alone_and_leaves_its_blocks_clean(runner: DeviceRunner) -> None:
    runner.run(_prefill(1, {0: (5, 6, 7), 1: (8, 9)}))
    expected = runner.run(_decode(2, {0: 3, 1: 2})).tokens
    runner.run(_prefill(3, {0: (5, 6, 7), 1: (8, 9)}))
    runner._kv_LN2KSD[:, 3] = torch.nan
    good, bad = runner.run(_decode(4, {0: 3, 1: 2})).tokens
    assert good == expected[0]
    assert bad.error == "the model's logits are not finite"
    assert runner._kv_LN2KSD.isfinite().all()


def _decode(step: int, lengths: dict[int, int]) -> ScheduledBatch:
    sequences = tuple(ScheduledSequence(slot, length, 1, None, True) for slot, length in lengths.items())
    rows = [Rows(length, 1, [2 * slot + 1]) for slot, length in lengths.items()]
    return ScheduledBatch(step, sequences, build_plan(rows, 16, share=True))


def test_a_step_waits_for_the_one_before_it_only_where_its_tokens_decide_what_may_come(
    runner: DeviceRunner,
) -> None:
    first = runner.launch(_prefill(1, {0: (5, 6, 7)}))
    second = runner.launch(_decode(2, {0: 3}))
    assert not first.done
    tokens = (first.result().tokens[0].token_id, second.result().tokens[0].token_id)

    params = msgspec.structs.replace(GREEDY, bad_words=(tokens,))
    first = runner.launch(_prefill(3, {0: (5, 6, 7)}, params))
    second = runner.launch(_decode(4, {0: 3}))
    assert first.done
    assert not second.done
    assert first.result().tokens[0].token_id == tokens[0]
    assert second.result().tokens[0].token_id != tokens[1]


def test_scores_of_a_prompt_are_those_of_its_logits(runner: DeviceRunner) -> None:
    ids = _ids(4, 7)
    (scores,) = runner.run(_prefill(1, {1: ids}, targets=True)).scores
    assert scores.slot == 1
    logits = runner.forward(_prefill(2, {1: ids}, targets=True))
    expected = torch.log_softmax(logits[1:].double(), -1)
    for row, (found, target) in enumerate(zip(scores.logprobs, ids[1:], strict=True)):
        assert found.logprob == pytest.approx(float(expected[row, target]), abs=1e-9)
        assert [top.token_id for top in found.top] == expected[row].topk(2).indices.tolist()


def test_buffers_grow_with_the_step_and_are_remembered(runner: DeviceRunner) -> None:
    runner.run(_prefill(1, {0: _ids(20, 1)}))
    grown = runner.limits
    assert grown.words > 100
    assert grown.parts >= 20
    runner.run(_prefill(2, {0: _ids(3, 1)}))
    assert runner.limits == grown
