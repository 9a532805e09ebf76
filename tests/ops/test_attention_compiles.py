"""Attention in every committed configuration compiles for sm_90: no spills, the matrix units used.

`pytest tests/ops -k compile -s` prints registers, shared memory and matrix instructions.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels cannot be compiled", allow_module_level=True)

from ops import cuda_attention
from tests.ops.kernel_compiler import REGISTERS_PER_SM, SHARED_PER_SM, machines_of, meta

BF16 = torch.bfloat16
META = torch.device("meta")


def _attend(
    shape: cuda_attention.AttentionShape, rows: tuple[int, ...], window: int | None, soft_cap: float | None
) -> None:
    """Launch attention over one tile for each entry of `rows`."""
    ends = np.cumsum(rows)
    tiles = np.array([[end - n, end, 0, 16, 0, end - n] for end, n in zip(ends, rows, strict=True)], np.int32)
    count = int(ends[-1])
    arranged = cuda_attention.arrange_plan(tiles, count, shape, META)
    ids = np.zeros(count, np.int32)
    plan = cuda_attention.upload_plan(arranged, ids, ids, META)
    workspace = cuda_attention.new_workspace(count, shape, META)
    q = meta(count, shape.heads, shape.head_dim, dtype=shape.dtype)
    kv = meta(100, 2, shape.kv_heads, shape.block_size, shape.head_dim, dtype=shape.dtype)
    cuda_attention.attend_tiles(q, kv, plan, workspace, shape, window, soft_cap)


ATTENTION = [  # (heads, kv_heads, head_dim, block size, dtype, tiles' rows, window, soft cap)
    (32, 8, 128, 16, BF16, (1, 8, 16, 32), None, None),  # Llama 3 8B, Qwen3 8B: all M tiles
    (32, 32, 128, 16, BF16, (1,), None, None),  # MHA
    (28, 4, 128, 16, BF16, (1,), None, None),  # Qwen2 7B: a group of 7
    (32, 8, 128, 64, BF16, (1, 32), None, None),
    (32, 8, 64, 16, BF16, (1, 8, 16, 32), None, None),  # Llama 3.2 1B
    (32, 32, 96, 16, BF16, (1, 64), 2047, None),  # Phi-3 mini
    (8, 4, 256, 16, BF16, (1, 16, 32, 64), 4096, 50.0),  # Gemma 2 2B
    (64, 8, 64, 16, BF16, (1,), None, None),  # a group of 8
    (8, 8, 256, 64, BF16, (32,), None, None),
    (4, 2, 32, 16, BF16, (1, 16, 32, 64), None, None),
    (8, 2, 128, 16, torch.float32, (1, 32), None, None),
]


@pytest.mark.parametrize("case", ATTENTION, ids=lambda case: "-".join(str(part) for part in case[:5]))
def test_attention_compiles_without_spills_and_uses_the_matrix_units(
    case: tuple[int, int, int, int, torch.dtype, tuple[int, ...], int | None, float | None],
) -> None:
    heads, kv_heads, dim, page, dtype, rows, window, soft_cap = case
    shape = cuda_attention.AttentionShape(heads, kv_heads, dim, page, dtype, dim**-0.5, group_major=True)
    machines = machines_of(lambda: _attend(shape, rows, window, soft_cap))
    assert len(machines) == len(rows)
    if dtype == torch.float32:
        return
    by_m = {config.block_m: config for config in shape.configs()}
    for machine, tile_rows in zip(machines, rows, strict=True):
        config = by_m[next(m for m in sorted(by_m) if m >= tile_rows * shape.group)]
        assert (machine.hgmma > 0) == (config.block_m >= 64), machine
        assert (machine.hmma > 0) == (config.block_m < 64), machine
        assert config.programs * (machine.shared + 1024) <= SHARED_PER_SM + 1024, machine
        assert config.programs * machine.registers * 32 * machine.warps <= REGISTERS_PER_SM, machine


def test_the_merge_compiles_without_spills() -> None:
    shape = cuda_attention.AttentionShape(32, 8, 128, 16, BF16, 1.0)
    tiles = np.array([[0, 8, 0, 1, 0, 0]], np.int32)
    ids = np.zeros(8, np.int32)
    plan = cuda_attention.upload_plan(cuda_attention.arrange_plan(tiles, 8, shape, META), ids, ids, META)
    workspace = cuda_attention.new_workspace(8, shape, META)
    machines_of(lambda: cuda_attention.merge_parts(plan, workspace, meta(8, 32, 128)))
