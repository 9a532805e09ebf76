"""The runner on a GPU: the CPU's logits and tokens, graphs and overlap that change nothing, batch invariance."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch

pytest.importorskip("triton")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA GPU", allow_module_level=True)

from engine.batch import ScheduledBatch, ScheduledSequence, SlotInstall
from engine.config import EngineConfig
from engine.core import EngineCore
from engine.plan import Rows, build_plan
from engine.runner.device_runner import DeviceRunner
from engine.runner.load import load_runner
from engine.runner.loaded import LoadedRunner, LoadError
from engine.types import Generate, SamplingParams
from tests.engine.step_driver import GREEDY, StepDriver
from tests.engine.test_model_families import Checkpoint

SIZES: dict[str, object] = {
    "vocab_size": 4099,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "initializer_range": 0.05,
}
FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": 300}),
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, changes = FAMILIES[request.param]
    return Checkpoint(tmp_path_factory.mktemp("model"), family, {**SIZES, **changes}).folder


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Checkpoint(tmp_path_factory.mktemp("model"), "Qwen3", SIZES).folder


def _config(folder: Path, **changes: object) -> EngineConfig:
    config = EngineConfig(
        model=str(folder),
        device="cuda",
        dtype="bfloat16",
        kv_cache_memory=64 * 2**20,
        max_num_seqs=32,
        max_num_batched_tokens=256,
        max_model_len=2048,
    )
    return msgspec.structs.replace(config, **changes)


def _load(config: EngineConfig) -> LoadedRunner:
    return load_runner(config, lambda stage, fraction: None)


def _runner(config: EngineConfig) -> DeviceRunner:
    runner = _load(config).runner
    assert isinstance(runner, DeviceRunner)
    return runner


def _ids(length: int, seed: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(4099), k=length))


def _logits(loaded: LoadedRunner) -> Iterator[torch.Tensor]:
    """Chunks of a long sequence, cache hits in its prefix, and steps that mix prefill and decode."""
    driver = StepDriver(loaded.runner, random.Random(1), shuffled=True)  # type: ignore[arg-type]
    trunk = _ids(576, 0)
    driver.add("long", trunk + _ids(100, 1))
    for length in (200, 256, 120, 64):
        yield from driver.step({"long": length}).values()
    for index in range(5):
        driver.add(f"short{index}", trunk[:512] + _ids(40 + index, 2 + index), prefix_of="long", cached=512)
    yield from driver.step({"long": 1, **{f"short{index}": 30 for index in range(5)}}).values()
    for _ in range(4):
        yield from driver.step({"long": 1, **{f"short{index}": 1 for index in range(5)}}).values()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("deterministic", [False, True], ids=["fast", "deterministic"])
def test_logits_are_those_of_the_cpu_in_fp32(
    folder: Path, dtype: str, tolerance: float, deterministic: bool
) -> None:
    found = list(_logits(_load(_config(folder, dtype=dtype, deterministic=deterministic))))
    expected = list(_logits(_load(_config(folder, dtype="float32", device="cpu"))))
    for mine, other in zip(found, expected, strict=True):
        error = (mine.cpu().float() - other).norm() / other.norm()
        assert error < tolerance, float(error)


def _requests() -> list[Generate]:
    trunk = _ids(300, 0)
    requests = []
    for index in range(12):
        greedy = msgspec.structs.replace(GREEDY, max_tokens=24 + index)
        seeded = SamplingParams(max_tokens=24 + index, seed=index, temperature=0.9, top_p=0.9, logprobs=2)
        ids = (trunk if index % 3 else ()) + _ids(5 + 11 * index, index)
        requests.append(Generate(index, ids, greedy if index % 2 else seeded))
    return requests


def _generate(config: EngineConfig, requests: list[Generate]) -> dict[int, list[int]]:
    """Tokens by request; requests come while others run."""
    loaded = _load(config)
    core = EngineCore(loaded.runner, loaded.ready, config.disabled)
    tokens: dict[int, list[int]] = {request.id: [] for request in requests}
    waiting = list(requests)
    while waiting or core.has_work:
        if waiting:
            core.take(waiting.pop(0))
        for delta in core.step().deltas:
            assert delta.error is None
            tokens[delta.id] += delta.token_ids
    return tokens


def test_greedy_and_seeded_tokens_in_fp32_are_those_of_the_cpu(qwen3: Path) -> None:
    found = _generate(_config(qwen3, dtype="float32"), _requests())
    expected = _generate(_config(qwen3, dtype="float32", device="cpu"), _requests())
    same = sum(found[index] == tokens for index, tokens in expected.items())
    assert same >= len(expected) - 1, "one at most may have come to two tokens that fp32 cannot tell apart"


def test_overlap_graphs_memory_and_company_change_no_token_where_that_is_asked_for(qwen3: Path) -> None:
    config = _config(qwen3, deterministic=True)
    expected = _generate(config, _requests())
    assert all(len(expected[index]) == 24 + index for index in range(12))
    for disabled in ({"overlap"}, {"cuda-graphs"}, {"overlap", "cuda-graphs", "shared-prefix-attention"}):
        assert (
            _generate(msgspec.structs.replace(config, disabled=frozenset(disabled)), _requests()) == expected
        )
    tight = msgspec.structs.replace(config, kv_cache_memory=3 * 2**20, max_model_len=512)  # preempts
    assert _generate(tight, _requests()) == expected
    for request in _requests()[:3]:
        assert _generate(config, [request])[request.id] == expected[request.id]


def _decode(step: int, num_rows: int, position: int, *, install: bool) -> ScheduledBatch:
    """Decode rows of sequences that share their first 512 tokens."""
    rows = [Rows(position, 1, [*range(1, 9), *range(9 + 3 * i, 12 + 3 * i)]) for i in range(num_rows)]
    return ScheduledBatch(
        step,
        tuple(ScheduledSequence(slot, position, 1, None, True) for slot in range(num_rows)),
        build_plan(rows, 64, share=True),
        installs=tuple(SlotInstall(slot, GREEDY, (slot + 5,)) for slot in range(num_rows)) if install else (),
        block_tables={slot: tuple(item.blocks) for slot, item in enumerate(rows)},
    )


@pytest.mark.parametrize("num_rows", [1, 3, 8, 13, 32])
def test_a_graph_gives_the_bits_of_the_step_without_it(qwen3: Path, num_rows: int) -> None:
    captured = _runner(_config(qwen3))
    eager = _runner(_config(qwen3, disabled=frozenset({"cuda-graphs"})))
    for runner in (captured, eager):
        generator = torch.Generator("cuda").manual_seed(1)
        runner._kv_LN2KSD.normal_(generator=generator)
    for step in range(6):  # the first captures, the others replay; positions cross into another chunk
        batch = _decode(step, num_rows, 638 + step, install=step == 0)
        assert torch.equal(captured.forward(batch), eager.forward(batch))
    assert captured.graphs.num_captured >= 1
    assert eager.graphs.num_captured == 0


def test_deterministic_logits_depend_on_the_own_ids_alone(qwen3: Path) -> None:
    loaded = _load(_config(qwen3, deterministic=True))
    together = StepDriver(loaded.runner, random.Random(1), shuffled=True)  # type: ignore[arg-type]
    names = [f"s{index}" for index in range(7)]
    ids = {name: _ids(30 + 60 * index, index) for index, name in enumerate(names)}
    for name in names:
        together.add(name, ids[name])
    found: dict[tuple[str, int], torch.Tensor] = {}
    while left := [name for name in names if together.sequences[name].computed < len(ids[name])]:
        lengths = {
            name: min(1 + 7 * index, len(ids[name]) - together.sequences[name].computed)
            for index, name in enumerate(left)
        }
        found |= together.step(lengths)
    for chunk in (1, 33, 256):
        alone = StepDriver(loaded.runner, random.Random(2))  # type: ignore[arg-type]
        for name in names:
            alone.add(name, ids[name])
            for position, logits in alone.run_alone(name, chunk).items():
                if (name, position) in found:
                    assert torch.equal(logits, found[name, position]), (name, position, chunk)


def test_nan_fails_its_sequence_alone_and_leaves_its_blocks_clean(qwen3: Path) -> None:
    runner = _runner(_config(qwen3))
    runner.run(_decode(1, 2, 600, install=True))
    runner._kv_LN2KSD[:, 12] = torch.nan  # the second one's
    good, bad = runner.run(_decode(2, 2, 601, install=False)).tokens
    assert good.error is None
    assert bad.error == "the model's logits are not finite"
    assert runner._kv_LN2KSD.isfinite().all()


def test_the_kv_cache_takes_its_share_of_the_gpu(qwen3: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    free, total = torch.cuda.mem_get_info()
    config = _config(qwen3, kv_cache_memory=None, gpu_memory_utilization=0.2)
    ready = _load(config).ready
    assert 0.1 * min(total, free) < ready.kv_cache_bytes < 0.2 * total
    assert any("--gpu-memory-utilization 0.2" in record.message for record in caplog.records)
    with pytest.raises(LoadError, match="--gpu-memory-utilization"):
        _load(msgspec.structs.replace(config, gpu_memory_utilization=0.001))
    with pytest.raises(LoadError, match="--kv-cache-memory"):
        _load(msgspec.structs.replace(config, kv_cache_memory=2 * total))
