"""How a GPU's memory is divided between weights, steps and KV cache."""

from __future__ import annotations

import numpy as np
import torch

from engine.runner.device_memory import (
    CONTEXT_BYTES,
    GRAPH_BYTES,
    DeviceMemory,
    Download,
    kv_cache_budget,
    upload,
)

GIB = 2**30
EMPTY = DeviceMemory(total=80 * GIB, free=60 * GIB, used=20 * GIB, held=16 * GIB)


def test_the_cache_takes_what_utilization_leaves_beside_weights_and_steps() -> None:
    assert kv_cache_budget(EMPTY, 0.9, 1) == int(80 * GIB * 0.9) - 20 * GIB - CONTEXT_BYTES - GRAPH_BYTES


def test_engines_on_one_gpu_share_it() -> None:
    assert kv_cache_budget(EMPTY, 0.9, 2) == int(80 * GIB * 0.45) - 20 * GIB - CONTEXT_BYTES - GRAPH_BYTES


def test_memory_that_somebody_else_holds_is_not_counted_on() -> None:
    crowded = DeviceMemory(total=80 * GIB, free=10 * GIB, used=20 * GIB, held=16 * GIB)
    assert kv_cache_budget(crowded, 0.9, 1) == 6 * GIB - GRAPH_BYTES


def test_nothing_is_left_where_the_model_takes_all() -> None:
    assert kv_cache_budget(EMPTY, 0.2, 1) == 0


def test_arrays_go_to_the_device_and_back() -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T
    assert Download(upload(array, torch.device("cpu"))).get().tolist() == array.tolist()
