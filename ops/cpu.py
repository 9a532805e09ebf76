"""The CPU's ops but attention and linears, as torch calls: a product, not a fallback.

Invariant: row-wise results. What a row comes to depends on neither the rows beside it nor the thread count.
torch's own kernels do not promise that, so three rules are kept here:

- transcendental functions run a SIMD body and a scalar tail that round differently. Rows are multiples of
  64 elements, and an op that torch would split among threads at other than a multiple of 64 runs in slabs
  small enough not to be split (`_rows_per_slab`);
- everything else elementwise is +, * and conversions, which IEEE rounds alike in body and tail; products are
  never fused with sums (no addcmul, no complex multiplication);
- reductions run along whole rows inside one thread (layer_norm) or not at all.

Shapes: R rows, H hidden or heads, K 2 x kv_heads, A heads + 2 x kv_heads, D head_dim, F ffn, S slots.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

SIMD_QUANTUM = 64
"""Elements: twice the widest vector (32 bf16 lanes), what torch's unrolled loops advance by."""

Activation = Callable[[torch.Tensor], torch.Tensor]

_GRAIN = 32768  # elements; at::internal::GRAIN_SIZE, below which torch does not split an op among threads


def prepare_norm_weight(weight_H: torch.Tensor) -> torch.Tensor:
    """The fp32 weight that `rms_norm` wants: [2 x hidden], the second half zero."""
    weight = weight_H.float()
    return torch.cat((weight, torch.zeros_like(weight)))


def rms_norm(x_RH: torch.Tensor, weight_2H: torch.Tensor, shape: tuple[int, ...], eps: float) -> torch.Tensor:
    """RMS norm as one fused layer norm: the mean of [x, -x] is 0, so its variance is mean(x^2).

    torch's own `rms_norm` decomposes into eight ops here (13 us against 6 for a row of 256).
    """
    doubled = torch.layer_norm(torch.cat((x_RH, -x_RH), -1), shape, weight_2H, None, eps)
    rows, hidden = x_RH.shape
    return doubled.as_strided((rows, hidden), (2 * hidden, 1))


def silu_and_mul(gate_up_R2F: torch.Tensor) -> torch.Tensor:
    return _gated(F.silu, gate_up_R2F)


def gelu_tanh_and_mul(gate_up_R2F: torch.Tensor) -> torch.Tensor:
    return _gated(_gelu_tanh, gate_up_R2F)


@dataclass(slots=True)
class RopeStep:
    """What every layer of a step needs to rotate and write.

    cos, sin: fp32 [rows, 1, head_dim] at the rows' positions; the first half of sin is negated, so that
    rotation is x * cos + swap_halves(x) * sin. slots: int64 [rows], where keys and values go.
    """

    cos_R1D: torch.Tensor
    sin_R1D: torch.Tensor
    slots_R: torch.Tensor


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
    kv_heads = (all_heads - q_heads) // 2
    row_stride = all_heads * dim
    offset = qkv_RAD.storage_offset()
    qk = qkv_RAD.as_strided((rows, q_heads + kv_heads, dim), (row_stride, dim, 1), offset).float()
    if qk_norm_weight_HD is not None:
        doubled = torch.layer_norm(torch.cat((qk, -qk), -1), (2 * dim,), None, None, eps)
        qk = doubled[..., :dim] * qk_norm_weight_HD
    swapped = torch.roll(qk, dim // 2, -1)
    rotated = (qk * step.cos_R1D).add_(swapped.mul_(step.sin_R1D))
    q_out_RHD.copy_(rotated[:, :q_heads])
    kv = qkv_RAD.as_strided(
        (2 * kv_heads, rows, dim), (dim, row_stride, 1), offset + q_heads * dim
    )  # a transposed view: keys, then values
    kv[:kv_heads].copy_(rotated[:, q_heads:].transpose(0, 1))
    kv_pool_KSD.index_copy_(1, step.slots_R, kv)


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


def _rows_per_slab(rows: int, width: int) -> int:
    """How many rows an elementwise op may take at once, such that threads split it at whole SIMD vectors."""
    elements = rows * width
    parts = min(torch.get_num_threads(), -(-elements // _GRAIN))
    if parts <= 1 or -(-elements // parts) % SIMD_QUANTUM == 0:
        return rows
    return max(1, (_GRAIN - 1) // width)
