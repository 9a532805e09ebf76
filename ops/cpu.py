"""The CPU's ops but attention and linears, as torch calls: a product, not a fallback.

Invariant: row-wise results. What a row comes to depends on neither the rows beside it nor the thread count.
torch's own kernels do not promise that, so three rules are kept here:

- transcendental functions run a SIMD body and a scalar tail that round differently. Rows are multiples of
  64 elements, and an op that torch would split among threads at other than a multiple of 64 runs in slabs
  small enough not to be split (`_rows_per_slab`);
- complex products, whose body and tail may round differently too, are split between threads at whole heads:
  then what is tail is a matter of the element's place in its head;
- everything else elementwise is +, *, square roots and conversions, which IEEE rounds alike in body and tail;
  products are never fused with sums (no addcmul);
- reductions run along whole rows inside one thread (layer_norm, vector_norm) or not at all.

Shapes: R rows, H hidden or heads, K 2 x kv_heads, A heads + 2 x kv_heads, D head_dim, F ffn, S slots.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

SIMD_QUANTUM = 64
"""Elements: twice the widest vector (32 bf16 lanes), what torch's unrolled loops advance by."""

Activation = Callable[[torch.Tensor], torch.Tensor]

_GRAIN = 32768  # elements; at::internal::GRAIN_SIZE, below which torch does not split an op among threads


def prepare_norm_weight(weight_H: torch.Tensor) -> torch.Tensor:
    """What `rms_norm` wants, in fp32: for rows in fp32 [hidden], sqrt(hidden) in it; for others [2 x hidden], the
    second half zero.
    """
    weight = weight_H.float()
    if weight_H.dtype == torch.float32:
        return weight * math.sqrt(len(weight))
    return torch.cat((weight, torch.zeros_like(weight)))


def rms_norm(x_RH: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS norm. torch's own decomposes into eight ops here.

    Rows of less than 32 bits as one fused layer norm, which converts as it goes: the mean of [x, -x] is 0, so its
    variance is mean(x^2).
    """
    if x_RH.dtype == torch.float32:
        return (x_RH * _over_norm(x_RH, eps)).mul_(weight)
    rows, hidden = x_RH.shape
    doubled = torch.layer_norm(torch.cat((x_RH, -x_RH), -1), (2 * hidden,), weight, None, eps)
    return doubled.as_strided((rows, hidden), (2 * hidden, 1))


def _over_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    """1 / sqrt(sum(x^2) + n eps) along the last dimension, of n elements: the inverse RMS over sqrt(n). x: fp32."""
    norm: torch.Tensor = torch.linalg.vector_norm(x, 2, -1, True)
    return norm.mul_(norm).add_(eps * x.shape[-1]).rsqrt_()


def silu_and_mul(gate_up_R2F: torch.Tensor) -> torch.Tensor:
    return _gated(F.silu, gate_up_R2F)


def gelu_tanh_and_mul(gate_up_R2F: torch.Tensor) -> torch.Tensor:
    return _gated(_gelu_tanh, gate_up_R2F)


@dataclass(slots=True)
class RopeStep:
    """What every layer of a step needs to rotate and write.

    rotation: complex64 [rows, 1, head_dim / 2], cos + i sin at the rows' positions. slots: int64 [rows], where
    keys and values go. runs: (first row, row after the last, first slot) of rows that go to slots in sequence, and
    rows in none are written nowhere; None: take all as scattered.
    """

    rotation_R1C: torch.Tensor
    slots_R: torch.Tensor
    runs: tuple[tuple[int, int, int], ...] | None = None


def rope_and_write_kv(
    qkv_RAD: torch.Tensor,
    step: RopeStep,
    q_out_RHD: torch.Tensor,
    kv_pool_KSD: torch.Tensor,
    qk_norm_weight_HD: torch.Tensor | None,
    eps: float,
) -> None:
    rows, all_heads, dim = qkv_RAD.shape
    q_heads = q_out_RHD.shape[1]
    heads, kv_heads = (all_heads + q_heads) // 2, (all_heads - q_heads) // 2
    row_stride, offset = all_heads * dim, qkv_RAD.storage_offset()
    stored = qkv_RAD.as_strided((rows, heads, dim), (row_stride, dim, 1), offset)
    qk = stored.float()
    if qk_norm_weight_HD is not None:
        qk = (qk * _over_norm(qk, eps)).mul_(qk_norm_weight_HD).mul_(math.sqrt(dim))
    _rotate(qk, step.rotation_R1C)
    if qk is not stored:
        stored.copy_(qk)
    q_out_RHD.copy_(qkv_RAD.as_strided((rows, q_heads, dim), (row_stride, dim, 1), offset))
    kv_KRD = qkv_RAD.as_strided((2 * kv_heads, rows, dim), (dim, row_stride, 1), offset + q_heads * dim)
    if step.runs is None:
        kv_pool_KSD.index_copy_(1, step.slots_R, kv_KRD)
        return
    for begin, end, slot in step.runs:
        kv_pool_KSD[:, slot : slot + end - begin].copy_(kv_KRD[:, begin:end])


def _rotate(x_RHD: torch.Tensor, rotation_R1C: torch.Tensor) -> None:
    """Multiply neighbouring elements, as one complex number, by their row's rotations, in place. x: fp32."""
    rows, heads, dim = x_RHD.shape
    row_stride, head_stride, _ = x_RHD.stride()
    half = dim // 2
    x_RHC = torch.view_as_complex(
        x_RHD.as_strided((rows, heads, half, 2), (row_stride, head_stride, 2, 1), x_RHD.storage_offset())
    )
    slab = _rows_per_slab(rows, heads * half, half)
    if slab >= rows:
        x_RHC.mul_(rotation_R1C)
        return
    for begin in range(0, rows, slab):
        x_RHC[begin : begin + slab].mul_(rotation_R1C[begin : begin + slab])


def copy_block(kv_pool_LKSD: torch.Tensor, source: int, target: int, tokens: int) -> None:
    """Copy `tokens` slots of every layer from slot `source` to slot `target`; the ranges do not overlap."""
    kv_pool_LKSD[:, :, target : target + tokens].copy_(kv_pool_LKSD[:, :, source : source + tokens])


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


def _gated(activation: Activation, gate_up_R2F: torch.Tensor) -> torch.Tensor:
    rows, double = gate_up_R2F.shape
    ffn = double // 2
    slab = _rows_per_slab(rows, ffn)
    if slab >= rows:
        gate, up = gate_up_R2F.chunk(2, 1)
        return activation(gate).mul_(up)
    return torch.cat([_gated(activation, part) for part in torch.split(gate_up_R2F, slab)])


def _rows_per_slab(rows: int, width: int, quantum: int = SIMD_QUANTUM) -> int:
    """How many rows an elementwise op may take at once, such that threads split it at multiples of `quantum`."""
    elements = rows * width
    parts = min(torch.get_num_threads(), -(-elements // _GRAIN))
    if parts <= 1 or -(-elements // parts) % quantum == 0:
        return rows
    return max(1, (_GRAIN - 1) // width)
