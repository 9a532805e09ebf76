"""The CPU's ops but attention and linears, as torch calls: a product, not a fallback.

Invariant: row-wise results. What a row comes to depends on neither the rows beside it nor the thread count.
torch's own kernels do not promise that, so three rules are kept here:

- transcendental functions run a SIMD body and a scalar tail that round differently. Rows are multiples of
  64 elements, and an op that torch would split among threads at other than a multiple of 64 runs in slabs
  small enough not to be split (`_rows_per_slab`);
- complex products, whose body and tail may round differently too, are split between threads at whole heads:
  then what is tail is a matter of the element's place in its head (heads whose rows follow each other in memory are
  one run, without a tail, since panels are multiples of 32);
- everything else elementwise is +, *, square roots and conversions, which IEEE rounds alike in body and tail;
  products are never fused with sums (no addcmul);
- reductions run along whole rows inside one thread (layer_norm, vector_norm) or not at all.

Shapes: R rows, P parts of W columns (`Linear.parts`), H hidden or heads, K 2 x kv_heads, A heads + 2 x kv_heads,
D head_dim, F ffn, S slots.
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
    """What `rms_norm` wants: fp32 [2 x hidden], the second half zero."""
    weight = weight_H.float()
    return torch.cat((weight, torch.zeros_like(weight)))


def rms_norm(x_RH: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS norm of rows of less than 32 bits. torch's own decomposes into eight ops here.

    As one fused layer norm, which converts as it goes: the mean of [x, -x] is 0, so its variance is mean(x^2).
    """
    rows, hidden = x_RH.shape
    doubled = torch.layer_norm(torch.cat((x_RH, -x_RH), -1), (2 * hidden,), weight, None, eps)
    return doubled.as_strided((rows, hidden), (2 * hidden, 1))


def over_norm(x: torch.Tensor, floor: torch.Tensor) -> torch.Tensor:
    """1 / sqrt(sum(x^2) + floor) along the last dimension, which stays with size 1. x: fp32; floor: one number."""
    norm: torch.Tensor = torch.linalg.vector_norm(x, 2, -1, True)
    return norm.mul_(norm).add_(floor).rsqrt_()


def silu_and_mul(gate_up_RPW: torch.Tensor) -> torch.Tensor:
    return _gated(F.silu, gate_up_RPW)


def gelu_tanh_and_mul(gate_up_RPW: torch.Tensor) -> torch.Tensor:
    return _gated(_gelu_tanh, gate_up_RPW)


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
    strides, offset = qkv_RAD.stride(), qkv_RAD.storage_offset()
    if qk_norm_weight_HD is None and qkv_RAD.dtype == torch.float32:
        _rotate(qkv_RAD, heads, step.rotation_R1C)
    else:
        stored = qkv_RAD.as_strided((rows, heads, dim), strides)
        qk = stored.float()
        if qk_norm_weight_HD is not None:
            qk = (qk * over_norm(qk, torch.tensor(eps * dim))).mul_(qk_norm_weight_HD).mul_(math.sqrt(dim))
        _rotate(qk, heads, step.rotation_R1C)
        stored.copy_(qk)
    q_out_RHD.copy_(qkv_RAD.as_strided(q_out_RHD.shape, strides))
    row_stride, head_stride, _ = strides
    kv_KRD = qkv_RAD.as_strided(
        (2 * kv_heads, rows, dim), (head_stride, row_stride, 1), offset + q_heads * head_stride
    )
    if step.runs is None:
        kv_pool_KSD.index_copy_(1, step.slots_R, kv_KRD)
        return
    for begin, end, slot in step.runs:
        kv_pool_KSD[:, slot : slot + end - begin].copy_(kv_KRD[:, begin:end])


def _rotate(x_RHD: torch.Tensor, heads: int, rotation_R1C: torch.Tensor) -> None:
    """Multiply neighbouring elements of the first heads, as one complex number, by their row's rotations, in place.
    x: fp32.
    """
    rows, _, dim = x_RHD.shape
    row_stride, head_stride, _ = x_RHD.stride()
    half = dim // 2
    x_RHC = torch.view_as_complex(x_RHD.as_strided((rows, heads, half, 2), (row_stride, head_stride, 2, 1)))
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


def _gated(activation: Activation, gate_up_RPW: torch.Tensor) -> torch.Tensor:
    rows, parts, width = gate_up_RPW.shape
    ffn = parts // 2 * width
    out_RPW = gate_up_RPW.new_empty(rows, parts // 2, width)
    slab = _rows_per_slab(rows, ffn)
    if slab >= rows:
        _write_gated(activation, gate_up_RPW, out_RPW)
    else:
        for begin in range(0, rows, slab):
            _write_gated(activation, gate_up_RPW[begin : begin + slab], out_RPW[begin : begin + slab])
    return out_RPW.view(rows, ffn)


def _write_gated(activation: Activation, gate_up_RPW: torch.Tensor, out_RPW: torch.Tensor) -> None:
    strides, offset = gate_up_RPW.stride(), gate_up_RPW.storage_offset()
    gate = gate_up_RPW.as_strided(out_RPW.shape, strides)
    up = gate_up_RPW.as_strided(out_RPW.shape, strides, offset + out_RPW.shape[1] * strides[1])
    torch.mul(activation(gate), up, out=out_RPW)


def _rows_per_slab(rows: int, width: int, quantum: int = SIMD_QUANTUM) -> int:
    """How many rows an elementwise op may take at once, such that threads split it at multiples of `quantum`."""
    elements = rows * width
    parts = min(torch.get_num_threads(), -(-elements // _GRAIN))
    if parts <= 1 or -(-elements // parts) % quantum == 0:
        return rows
    return max(1, (_GRAIN - 1) // width)
