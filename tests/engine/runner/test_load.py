"""Which device an engine computes on."""

from __future__ import annotations

import pytest

from engine.config import Device, EngineConfig
from engine.runner.load import choose_device
from engine.runner.loaded import LoadError


@pytest.mark.parametrize(
    ("device", "gpus", "chosen"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda"), ("cpu", 2, "cpu"), ("cuda", 1, "cuda")],
)
def test_a_gpu_is_used_where_there_is_one_and_it_may_be(device: Device, gpus: int, chosen: str) -> None:
    assert choose_device(EngineConfig(device=device), gpus) == chosen


def test_a_gpu_that_is_not_there_is_an_error_that_names_the_flag() -> None:
    with pytest.raises(LoadError, match=r"^--device cuda: "):
        choose_device(EngineConfig(device="cuda"), 0)
    with pytest.raises(LoadError, match=r"^--devices 3: "):
        choose_device(EngineConfig(device="cuda", visible_device="3"), 0)
