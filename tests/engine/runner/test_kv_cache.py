"""The pool's copies, in both layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.models.config import load_config
from engine.runner.kv_cache import KvCache, KvSizes
from tests.engine.step_driver import write_config

SIZES = KvSizes(num_blocks=4, block_size=32, max_model_len=64, total_bytes=0)


@pytest.mark.parametrize(
    ("interleaved", "tokens", "copied"), [(1, 5, 5), (16, 5, 16), (16, 16, 16), (16, 17, 32)]
)
def test_a_copy_ends_with_the_slots_that_lie_interleaved_with_its_last(
    tmp_path: Path, interleaved: int, tokens: int, copied: int
) -> None:
    cache = KvCache(SIZES, load_config(write_config(tmp_path)), torch.float32, interleaved)
    cache.pool[:, :, 32:64] = 1.0
    cache.copy(1, 3, tokens)
    expected = torch.zeros(4 * 32, dtype=torch.bool)
    expected[32:64] = expected[96 : 96 + copied] = True
    assert torch.equal(cache.pool == 1.0, expected[:, None].expand_as(cache.pool))
