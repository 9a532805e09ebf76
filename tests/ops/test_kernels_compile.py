"""Every kernel in every committed configuration compiles for sm_90: no spills, the matrix units used.

`pytest tests/ops/test_kernels_compile.py -s` prints registers, shared memory and matrix instructions.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels cannot be compiled", allow_module_level=True)

from ops import cuda, cuda_attention, cuda_linear, cuda_sampling
from tests.ops.kernel_compiler import Machine, compile_launch, record

BF16 = torch.bfloat16
SHARED_PER_SM = 227 * 1024
REGISTERS_PER_SM = 65536
META = torch.device("meta")


def _meta(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


def _machines(call: Callable[[], object]) -> list[Machine]:
    machines = [compile_launch(launch) for launch in record(call)]
    for machine in machines:
        print("\n" + machine.row(), end="")
        assert machine.spilled == 0, machine
        assert machine.shared <= SHARED_PER_SM
    return machines


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
    q = _meta(count, shape.heads, shape.head_dim, dtype=shape.dtype)
    kv = _meta(100, 2, shape.kv_heads, shape.block_size, shape.head_dim, dtype=shape.dtype)
    cuda_attention.attend_tiles(q, kv, plan, workspace, shape, window, soft_cap)


ATTENTION = [  # (heads, kv_heads, head_dim, block size, dtype, tiles' rows, window, soft cap)
    (32, 8, 128, 16, BF16, (1, 8, 16, 32), None, None),  # Llama 3 8B, Qwen3 8B: all M tiles
    (32, 32, 128, 16, BF16, (1,), None, None),  # MHA
    (28, 4, 128, 16, BF16, (1,), None, None),  # Qwen2 7B: a group of 7
    (32, 8, 128, 64, BF16, (1, 32), None, None),
    (32, 8, 64, 16, BF16, (1, 8, 16, 32), None, None),  # Llama 3.2 1B
    (32, 32, 96, 16, BF16, (1, 64), 2047, None),  # Phi-3 mini
    (8, 4, 256, 16, BF16, (1, 16, 32, 64), 4096, 50.0),  # Gemma 2 2B
    (4, 2, 32, 16, BF16, (1, 16, 32, 64), None, None),
    (8, 2, 128, 16, torch.float32, (1, 32), None, None),
]


@pytest.mark.parametrize("case", ATTENTION, ids=lambda case: "-".join(str(part) for part in case[:5]))
def test_attention_compiles_without_spills_and_uses_the_matrix_units(
    case: tuple[int, int, int, int, torch.dtype, tuple[int, ...], int | None, float | None],
) -> None:
    heads, kv_heads, dim, page, dtype, rows, window, soft_cap = case
    shape = cuda_attention.AttentionShape(heads, kv_heads, dim, page, dtype, dim**-0.5)
    machines = _machines(lambda: _attend(shape, rows, window, soft_cap))
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
    _machines(lambda: cuda_attention.merge_parts(plan, workspace, _meta(8, 32, 128)))


@pytest.mark.parametrize("hidden", [1024, 4096])
def test_norms_compile_without_spills(hidden: int) -> None:
    x, weight = _meta(8, hidden), _meta(hidden)
    _machines(lambda: cuda.rms_norm(x, weight, 1e-6))
    _machines(lambda: cuda.add_rms_norm(x, x, weight, 1e-6))


def test_activations_compile_without_spills() -> None:
    _machines(lambda: cuda.silu_and_mul(_meta(8, 2 * 3072)))
    _machines(lambda: cuda.gelu_tanh_and_mul(_meta(8, 2 * 3072)))


@pytest.mark.parametrize("dim", [64, 128])
def test_rope_and_kv_write_compile_without_spills(dim: int) -> None:
    table = _meta(4096, dim // 2, dtype=torch.float32)
    index = _meta(8, dtype=torch.int32)
    step = cuda.Rope(table, table, index, index)
    kv = _meta(100, 2, 8, 16, dim)
    weight = _meta(24, dim, dtype=torch.float32)
    _machines(lambda: cuda.rope_and_write_kv(_meta(8, 32, dim), step, _meta(8, 16, dim), kv, weight, 1e-6))
    _machines(lambda: cuda.rope_and_write_kv(_meta(8, 32, dim), step, _meta(8, 16, dim), kv))


def test_block_copies_compile_without_spills() -> None:
    _machines(lambda: cuda.copy_blocks(_meta(28, 100, 2, 8, 16, 128), _meta(3, 3, dtype=torch.int32)))


def test_sampling_compiles_without_spills() -> None:
    vocab, rows = 151936, 64
    logits, slots = _meta(rows, vocab, dtype=torch.float32), _meta(rows, dtype=torch.int32)
    single, whole = _meta(rows, dtype=torch.float32), _meta(rows, dtype=torch.int64)
    penalties = cuda_sampling.PenaltyTable(_meta(rows, vocab, dtype=torch.int32), single, single, single)
    bitmask = _meta(rows, -(-vocab // 32), dtype=torch.int32)
    table = cuda_sampling.SamplingTable(single, slots, single, single, whole)
    _machines(lambda: cuda_sampling.adjust_logits(logits, slots, penalties, bitmask))
    offsets = _meta(rows + 1, dtype=torch.int32)
    _machines(lambda: cuda_sampling.add_bias(logits, offsets, slots, single))
    _machines(lambda: cuda_sampling.argmax(logits))
    _machines(
        lambda: cuda_sampling.sample(logits, slots, whole, table, _meta(rows, vocab, dtype=torch.int32))
    )


def test_the_batch_invariant_product_compiles_to_wgmma_without_spills() -> None:
    (machine,) = _machines(
        lambda: cuda_linear.linear(_meta(64, 4096), _meta(6144, 4096), None, _meta(64, 6144))
    )
    assert machine.hgmma > 0
    _machines(
        lambda: cuda_linear.linear(_meta(64, 1024, dtype=torch.float32), _meta(99, 1024, dtype=torch.float32))
    )
