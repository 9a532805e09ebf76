"""What a step computes at most, where nobody says it: a function of the device alone."""

from __future__ import annotations

import pytest

from engine.config import CPU_STEP, GPU_STEP, EngineConfig, StepLimits, step_limits


@pytest.mark.parametrize(("gpu", "usual"), [(False, CPU_STEP), (True, GPU_STEP)])
def test_the_device_decides_what_no_flag_does(gpu: bool, usual: StepLimits) -> None:
    assert step_limits(EngineConfig(), gpu=gpu) == usual
    assert step_limits(EngineConfig(max_num_seqs=3), gpu=gpu) == StepLimits(3, usual.max_num_batched_tokens)
    tokens = EngineConfig(max_num_batched_tokens=100)
    assert step_limits(tokens, gpu=gpu) == StepLimits(usual.max_num_seqs, 100)
