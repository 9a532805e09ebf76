"""Norms, activations, rotation with the KV write and block copies in bf16 on a GPU, against the reference."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA GPU", allow_module_level=True)

from ops import cuda, reference

DEVICE = torch.device("cuda")
TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 1e-3, torch.float32: 1e-5}
DTYPES = list(TOLERANCE)


def _randn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype)


def _close(result: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    error = torch.linalg.vector_norm(result.double() - expected) / torch.linalg.vector_norm(expected)
    assert error < TOLERANCE[dtype], float(error)  # NaN fails


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "hidden"), [(1, 64), (77, 1023), (512, 4096), (3, 16384)])
def test_norms_are_the_reference(rows: int, hidden: int, dtype: torch.dtype) -> None:
    x, residual = _randn(rows, hidden, dtype=dtype), _randn(rows, hidden, dtype=dtype)
    weight = _randn(hidden, dtype=dtype)
    _close(cuda.rms_norm(x, weight, 1e-6), reference.rms_norm(x, weight, 1e-6), dtype)
    expected, total = reference.add_rms_norm(x, residual, weight, 1e-6)
    _close(cuda.add_rms_norm(x, residual, weight, 1e-6), expected, dtype)
    _close(residual, total, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "ffn"), [(1, 64), (77, 3001), (512, 14336)])
def test_activations_are_the_reference(rows: int, ffn: int, dtype: torch.dtype) -> None:
    gate_up = 3 * _randn(rows, 2 * ffn, dtype=dtype)
    _close(cuda.silu_and_mul(gate_up), reference.silu_and_mul(gate_up), dtype)
    _close(cuda.gelu_tanh_and_mul(gate_up), reference.gelu_tanh_and_mul(gate_up), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "page"), [(32, 8, 128, 16), (28, 4, 128, 64), (5, 5, 96, 16)]
)
def test_rope_and_write_kv_is_the_reference(
    heads: int, kv_heads: int, dim: int, page: int, dtype: torch.dtype
) -> None:
    rows, blocks = 131, 40
    qkv = _randn(rows, heads + 2 * kv_heads, dim, dtype=dtype)
    angles, weight = _randn(300, dim // 2), _randn(heads + kv_heads, dim)
    slots = torch.randperm(blocks * page, device=DEVICE)[:rows]
    positions = torch.randint(0, 300, (rows,), device=DEVICE)
    q_out = torch.full((rows, heads, dim), torch.nan, dtype=dtype, device=DEVICE)
    kv = torch.full((blocks, 2, kv_heads, page, dim), torch.nan, dtype=dtype, device=DEVICE)
    step = cuda.Rope(angles.cos(), angles.sin(), positions, slots)
    cuda.rope_and_write_kv(qkv, step, q_out, kv, weight, 1e-6)
    turned = qkv[:, : heads + kv_heads].double()
    turned = turned * torch.rsqrt(turned.square().mean(-1, keepdim=True) + 1e-6) * weight.double()
    turned = reference.rope(turned, step.cos_PC[positions].repeat(1, 2), step.sin_PC[positions].repeat(1, 2))
    _close(q_out, turned[:, :heads], dtype)
    at = kv[slots // page, :, :, slots % page]
    _close(at[:, 0], turned[:, heads:], dtype)
    assert torch.equal(at[:, 1], qkv[:, heads + kv_heads :])
    assert int((~kv.isnan()).sum()) == 2 * rows * kv_heads * dim


def test_copy_blocks_copies_the_first_slots_of_every_layer() -> None:
    kv = _randn(3, 20, 2, 4, 16, 128, dtype=torch.bfloat16)
    expected = kv.clone()
    for source, target, tokens in ((1, 3, 13), (2, 4, 1), (7, 8, 16)):
        expected[:, target, :, :, :tokens] = expected[:, source, :, :, :tokens]
    copies = torch.tensor([[1, 3, 13], [2, 4, 1], [7, 8, 16]], dtype=torch.int32, device=DEVICE)
    cuda.copy_blocks(kv, copies)
    assert torch.equal(kv, expected)
