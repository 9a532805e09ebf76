"""Every launch of a step compiles for sm_90 with the dtypes that the runner really passes: bf16, not run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels cannot be compiled", allow_module_level=True)

from engine.batch import ScheduledBatch, ScheduledSequence, SlotInstall
from engine.config import EngineConfig
from engine.plan import Rows, build_plan
from engine.runner.device_loader import load_onto
from engine.runner.device_runner import DeviceRunner
from engine.types import SamplingParams
from tests.engine.step_driver import write_config
from tests.ops.kernel_compiler import compile_launch, record

PARAMS = SamplingParams(max_tokens=9, seed=1, allowed_token_ids=(3, 4), logit_bias={3: 1.0})


def _batch(ids: tuple[int, ...] | None, installs: tuple[SlotInstall, ...] = ()) -> ScheduledBatch:
    length = 1 if ids is None else len(ids)
    return ScheduledBatch(
        1,
        (ScheduledSequence(0, 5, length, ids, sample=True),),
        build_plan([Rows(5, length, [1])], 64, share=True),
        installs=installs,
        block_tables={0: (1,)},
        copies=((1, 2, 5),),
    )


def test_the_launches_of_prefill_decode_and_sampling_compile(tmp_path: Path) -> None:
    shape = {
        "architectures": ["Qwen3ForCausalLM"],
        "head_dim": 64,
        "num_hidden_layers": 1,
        "vocab_size": 4099,
    }
    config = EngineConfig(
        model=str(write_config(tmp_path, **shape)),  # type: ignore[arg-type]
        load_format="dummy",
        dtype="bfloat16",
        kv_cache_memory=2**20,
        max_model_len=128,
        deterministic=True,
    )
    runner = load_onto(torch.device("cpu"), config, lambda stage, fraction: None).runner
    assert isinstance(runner, DeviceRunner)
    install = SlotInstall(0, PARAMS, (1, 2))
    # Nothing is computed, so a sample is no token: decode comes before there is one.
    launches = record(lambda: (runner.forward(_batch(None, (install,))), runner.run(_batch((7, 8, 9)))))
    kernels = {launch.kernel.__name__: launch for launch in launches}
    assert kernels.keys() >= {
        *("rms_norm", "linear", "rope_and_write_kv", "attend_tiles", "merge_parts", "gated", "copy_blocks"),
        *("argmax_parts", "argmax_merge", "adjust", "add_bias", "sample_rows"),
    }
    for launch in kernels.values():
        machine = compile_launch(launch)
        assert machine.stack == 0, machine
        assert (machine.hgmma + machine.hmma > 0) == (launch.kernel.__name__ in ("linear", "attend_tiles"))
