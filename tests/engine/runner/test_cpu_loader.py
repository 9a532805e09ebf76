"""What computes a model's steps on a CPU."""

from __future__ import annotations

import random
import sys
from typing import Literal

import msgspec
import pytest
import torch

from engine.config import EngineConfig
from engine.runner.model_runner import ModelRunner
from engine.runner.torch_forward import TorchForward
from tests.engine.step_driver import StepDriver, load, write_config

IDS = tuple(number * 7 % 131 for number in range(120))
TORCH = frozenset({"compiled-kernels"})


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EngineConfig:
    return EngineConfig(
        model=str(write_config(tmp_path_factory.mktemp("model"))),
        load_format="dummy",
        dtype="float32",
        kv_cache_memory=2 * 2**20,
        max_model_len=512,
        num_threads=1,
    )


def _logits(runner: ModelRunner) -> torch.Tensor:
    driver = StepDriver(runner, random.Random(0))
    driver.add("a", IDS)
    return torch.stack(list(driver.run_alone("a", 40).values()))


def test_float32_is_compiled_and_gives_what_torch_gives(config: EngineConfig) -> None:
    pytest.importorskip("numba")
    compiled, plain = (load(msgspec.structs.replace(config, disabled=off)) for off in (frozenset(), TORCH))
    assert not isinstance(compiled._forward, TorchForward)
    assert isinstance(plain._forward, TorchForward)
    torch.testing.assert_close(_logits(compiled), _logits(plain), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize(("dtype", "block_size"), [("bfloat16", 64), ("float32", 8)])
def test_what_the_kernels_do_not_know_is_left_to_torch(
    config: EngineConfig, dtype: Literal["bfloat16", "float32"], block_size: int
) -> None:
    runner = load(msgspec.structs.replace(config, dtype=dtype, block_size=block_size))
    assert isinstance(runner._forward, TorchForward)


def test_without_numba_torch_computes_and_a_line_says_so(
    config: EngineConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in list(sys.modules):
        if name.startswith(("engine.models.compiled", "ops.compiled")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    with caplog.at_level("INFO", "engine.runner.cpu_loader"):
        runner = load(config)
    assert isinstance(runner._forward, TorchForward)
    assert [record.message for record in caplog.records if "numba" in record.message] == [
        "computing with torch, which is slower for small models: import of numba halted; None in sys.modules"
    ]
