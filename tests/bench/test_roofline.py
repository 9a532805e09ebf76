"""Where a step's time goes, and what it cannot be faster than."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.workloads.peers import logged_dtypes
from bench.workloads.roofline_floor import Work, work_of_step
from bench.workloads.roofline_parts import PARTS, Parts, watched
from engine.config import EngineConfig
from engine.core import EngineCore
from engine.models.config import load_config
from engine.runner.cpu_loader import load_runner
from engine.runner.model_runner import ModelRunner
from engine.types import Generate, SamplingParams
from tests.engine.step_driver import write_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("model"))


def test_a_call_that_was_many_parts_is_split_by_their_shares() -> None:
    parts = Parts()
    parts.timed("inputs", lambda: parts.add_shares(30.0, {"qkv": 1, "attention": 2}))()
    assert parts.seconds["qkv"] == pytest.approx(10.0)
    assert parts.seconds["attention"] == pytest.approx(20.0)
    assert parts.seconds["inputs"] == pytest.approx(-30.0, abs=1.0)  # what was inside counts for itself


@pytest.mark.parametrize("way", ["compiled", "torch"])
def test_the_parts_of_a_step_are_its_time(folder: Path, way: str) -> None:
    if way == "compiled":
        pytest.importorskip("numba")
    config = EngineConfig(
        model=str(folder),
        load_format="dummy",
        dtype="float32",
        kv_cache_memory=2**20,
        num_threads=1,
        disabled=frozenset({"compiled-kernels"} if way == "torch" else ()),
    )
    loaded = load_runner(config, lambda stage, fraction: None)
    assert isinstance(loaded.runner, ModelRunner)
    core = EngineCore(loaded.runner, loaded.ready, frozenset())
    core.take(Generate(1, tuple(range(60)), SamplingParams(4, 0, ignore_eos=True)))
    with watched(core, loaded.runner) as parts:
        begin = time.perf_counter()
        core.step()
        whole = time.perf_counter() - begin
    computed = set(PARTS[PARTS.index("embed") : PARTS.index("sampling")])
    computed -= {"activation"} if way == "compiled" else set()
    assert all(parts.seconds[name] > 0.0 for name in computed)
    assert sum(parts.seconds.values()) < whole


def test_weights_and_keys_have_sizes_of_their_own(folder: Path) -> None:
    config = load_config(folder)
    wide, narrow = (
        sum(work_of_step(config, 1, 10, 1, size, kv_bytes=1000).values(), Work()) for size in (4, 2)
    )
    assert (wide.bytes - 1000) == 2 * (narrow.bytes - 1000)
    assert wide.flops == narrow.flops


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("dtype: float32 (no fast bf16 here)\nweights in memory: bfloat16\n", ("float32", "bfloat16")),
        ("dtype: bfloat16 (amx_bf16)\n", ("bfloat16", "bfloat16")),
        ("weights in memory: float32\n", ("float32", "float32")),
        ("", ("float32", "float32")),
    ],
)
def test_dtypes_are_those_that_the_engine_logged(log: str, expected: tuple[str, str]) -> None:
    assert logged_dtypes(log) == expected
