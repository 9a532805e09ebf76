"""Norms, activations, rotation with the KV write, and block copies, against the reference."""

from __future__ import annotations

import pytest
import torch

from ops import cuda, reference

TOLERANCE = {torch.float16: 1e-3, torch.float32: 1e-5}
# numpy's warning; a sigmoid far below zero is meant to go through exp(..) = inf.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")
DTYPES = [torch.float16, torch.float32]


def _close(result: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    error = torch.linalg.vector_norm(result.double() - expected) / torch.linalg.vector_norm(expected)
    assert error < TOLERANCE[dtype], float(error)  # NaN fails


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hidden", [64, 100, 1023])
def test_rms_norm_is_the_reference(dtype: torch.dtype, hidden: int) -> None:
    x = torch.randn(3, 2 * hidden).to(dtype)[:, :hidden]  # a strided view
    weight = torch.randn(hidden).to(dtype)
    _close(cuda.rms_norm(x, weight, 1e-6), reference.rms_norm(x, weight, 1e-6), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_add_rms_norm_is_the_reference_and_updates_the_residual(dtype: torch.dtype) -> None:
    x, residual = torch.randn(3, 70).to(dtype), torch.randn(3, 140).to(dtype)[:, 70:]
    weight = torch.randn(70)
    expected, total = reference.add_rms_norm(x, residual, weight, 1e-5)
    _close(cuda.add_rms_norm(x, residual, weight, 1e-5), expected, dtype)
    _close(residual, total, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ffn", [64, 1100])
def test_gated_activations_are_the_reference(dtype: torch.dtype, ffn: int) -> None:
    gate_up = (3 * torch.randn(2, 2 * ffn)).to(dtype)
    _close(cuda.silu_and_mul(gate_up), reference.silu_and_mul(gate_up), dtype)
    _close(cuda.gelu_tanh_and_mul(gate_up), reference.gelu_tanh_and_mul(gate_up), dtype)


def test_a_gate_far_from_zero_gives_no_nan() -> None:
    gate_up = torch.tensor([[-1e4, 1e4, -50.0, 50.0, 1.0, 1.0, 1.0, 1.0]])
    _close(cuda.silu_and_mul(gate_up), reference.silu_and_mul(gate_up), torch.float32)
    _close(cuda.gelu_tanh_and_mul(gate_up), reference.gelu_tanh_and_mul(gate_up), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "page"), [(4, 2, 32, 4), (7, 1, 64, 16), (3, 3, 24, 8), (2, 1, 128, 2)]
)
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
def test_rope_and_write_kv_is_the_reference(
    dtype: torch.dtype, heads: int, kv_heads: int, dim: int, page: int, norm: bool
) -> None:
    rows, blocks, all_heads = 3, 6, heads + 2 * kv_heads
    qkv = torch.randn(rows, all_heads, dim).to(dtype)
    angles = torch.randn(40, dim // 2)
    slots = torch.randperm(blocks * page)[:rows]
    step = cuda.Rope(angles.cos(), angles.sin(), torch.randint(0, 40, (rows,)), slots)
    weight = torch.randn(heads + kv_heads, dim) if norm else None
    q_out = torch.full((rows + 1, heads, dim), torch.nan, dtype=dtype)
    kv = torch.full((blocks, 2, kv_heads, page, dim), torch.nan, dtype=dtype)
    cuda.rope_and_write_kv(qkv, step, q_out, kv, weight, 1e-6)

    wide = qkv.double()
    turned = wide[:, : heads + kv_heads]
    if weight is not None:
        turned = turned * torch.rsqrt(turned.square().mean(-1, keepdim=True) + 1e-6) * weight.double()
    cos, sin = (table[step.positions_R].repeat(1, 2) for table in (step.cos_PC, step.sin_PC))
    turned = reference.rope(turned, cos, sin)
    _close(q_out[:rows], turned[:, :heads], dtype)
    assert q_out[rows:].isnan().all()
    at = kv[slots // page, :, :, slots % page]  # [rows, 2, kv_heads, dim]
    _close(at[:, 0], turned[:, heads:], dtype)
    assert torch.equal(at[:, 1], qkv[:, heads + kv_heads :])
    written = torch.zeros(blocks, page, dtype=torch.bool)
    written[slots // page, slots % page] = True
    assert torch.equal(~kv.isnan().any(-1), written[:, None, None].expand(-1, 2, kv_heads, -1))


def test_without_rotation_queries_and_keys_pass_through() -> None:
    qkv = torch.randn(2, 4, 32)
    table = torch.empty(0, 16)
    kv = torch.full((2, 2, 1, 4, 32), torch.nan)
    q_out = torch.empty(2, 2, 32)
    step = cuda.Rope(table, table, torch.tensor([0, 1]), torch.tensor([5, 6]))
    cuda.split_and_write_kv(qkv, step, q_out, kv)
    assert torch.equal(q_out, qkv[:, :2])
    assert torch.equal(kv[1, :, 0, 1:3].transpose(0, 1), qkv[:, 2:])


def test_copy_blocks_copies_the_first_slots_of_every_layer() -> None:
    kv = torch.randn(2, 5, 2, 1, 4, 24)
    expected = kv.clone()
    for source, target, tokens in ((1, 3, 3), (2, 4, 1)):
        expected[:, target, :, :, :tokens] = expected[:, source, :, :, :tokens]
    cuda.copy_blocks(kv, torch.tensor([[1, 3, 3], [2, 4, 1]], dtype=torch.int32))
    assert torch.equal(kv, expected)


def test_a_shape_that_does_not_fit_names_its_argument() -> None:
    with pytest.raises(ValueError, match="weight"):
        cuda.rms_norm(torch.ones(2, 8), torch.ones(7), 1e-6)
    with pytest.raises(ValueError, match="residual"):
        cuda.add_rms_norm(torch.ones(2, 8), torch.ones(3, 8), torch.ones(8), 1e-6)
    with pytest.raises(ValueError, match="gate_up"):
        cuda.silu_and_mul(torch.ones(2, 7))
    with pytest.raises(ValueError, match="copies"):
        cuda.copy_blocks(torch.ones(1, 2, 2, 1, 4, 8), torch.zeros(1, 3, dtype=torch.int64))
