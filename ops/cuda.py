"""The ops on a GPU, but attention, sampling and the deterministic product: checks, then one kernel launch.

Responsible for: shapes, dtypes and strides (ValueError names the argument), grids, and the choice of block
sizes. Kernels are in `ops.kernels`; their meaning is `ops.reference`. Tensors of one call are on one device;
under Triton's interpreter that may be the CPU.

Shapes: R rows, H hidden or heads, K kv_heads, A heads + 2 x kv_heads, D head_dim, F ffn, N blocks, S slots of a
block, P positions. A layer's KV memory is [N, 2, K, S, D], any strides but dim contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ops.kernels import activation, copy, norm, rope
from ops.kernels.shapes import power_of_two, row_warps

_GATED_BLOCK = 1024
_ROPE_HEADS = 8
_COPY_BLOCK = 2048


def rms_norm(x_RH: torch.Tensor, weight_H: torch.Tensor, eps: float) -> torch.Tensor:
    """[rows, hidden] -> the same shape and dtype. weight: any float dtype."""
    rows, hidden = _rows(x_RH, "x")
    _same_width(weight_H, hidden, "weight")
    out = torch.empty_like(x_RH, memory_format=torch.contiguous_format)
    if rows:
        norm.rms_norm[(rows,)](
            x_RH,
            weight_H,
            out,
            x_RH.stride(0),
            out.stride(0),
            eps,
            HIDDEN=hidden,
            BLOCK=power_of_two(hidden),
            num_warps=row_warps(hidden),
        )
    return out


def add_rms_norm(
    x_RH: torch.Tensor, residual_RH: torch.Tensor, weight_H: torch.Tensor, eps: float
) -> torch.Tensor:
    """residual += x, in place; returns rms_norm(residual)."""
    rows, hidden = _rows(x_RH, "x")
    if _rows(residual_RH, "residual") != (rows, hidden):
        raise ValueError(f"residual: shape {tuple(residual_RH.shape)}, but x has {tuple(x_RH.shape)}")
    _same_width(weight_H, hidden, "weight")
    out = torch.empty_like(x_RH, memory_format=torch.contiguous_format)
    if rows:
        norm.add_rms_norm[(rows,)](
            x_RH,
            residual_RH,
            weight_H,
            out,
            x_RH.stride(0),
            residual_RH.stride(0),
            out.stride(0),
            eps,
            HIDDEN=hidden,
            BLOCK=power_of_two(hidden),
            num_warps=row_warps(hidden),
        )
    return out


def silu_and_mul(gate_up_R2F: torch.Tensor) -> torch.Tensor:
    """[rows, 2 x ffn], gate first -> silu(gate) * up, [rows, ffn]."""
    return _gated(gate_up_R2F, gelu=False)


def gelu_tanh_and_mul(gate_up_R2F: torch.Tensor) -> torch.Tensor:
    """[rows, 2 x ffn], gate first -> gelu_tanh(gate) * up, [rows, ffn]."""
    return _gated(gate_up_R2F, gelu=True)


def _gated(gate_up_R2F: torch.Tensor, gelu: bool) -> torch.Tensor:
    rows, double = _rows(gate_up_R2F, "gate_up")
    if double % 2:
        raise ValueError(f"gate_up: {double} columns are no gate and up of equal width")
    ffn = double // 2
    out = gate_up_R2F.new_empty(rows, ffn)
    if rows:
        activation.gated[(rows, -(-ffn // _GATED_BLOCK))](
            gate_up_R2F,
            out,
            gate_up_R2F.stride(0),
            out.stride(0),
            ffn,
            GELU=gelu,
            BLOCK=min(_GATED_BLOCK, power_of_two(ffn)),
            num_warps=4,
        )
    return out


@dataclass(frozen=True, slots=True)
class Rope:
    """Where rows are and how positions turn. cos, sin: fp32 [P, D / 2], views of one row stride are fine.

    positions, slots: integers [R]; slots = block x block_size + offset, where keys and values go.
    """

    cos_PC: torch.Tensor
    sin_PC: torch.Tensor
    positions_R: torch.Tensor
    slots_R: torch.Tensor


def rope_and_write_kv(
    qkv_RAD: torch.Tensor,
    step: Rope,
    q_out_RHD: torch.Tensor,
    kv_N2KSD: torch.Tensor,
    qk_norm_weight_HD: torch.Tensor | None = None,
    eps: float = 0.0,
) -> None:
    """Rotate queries and keys, write the queries to `q_out_RHD` and keys and values to their slots.

    qk_norm_weight_HD: fp32 [heads + kv_heads, head_dim], an RMS norm per head before rotation. Rows beyond the
    batch (padding) have slots in scratch block 0.
    """
    _check_step(step, qkv_RAD.shape[2])
    _launch_rope(qkv_RAD, step, q_out_RHD, kv_N2KSD, qk_norm_weight_HD, eps, rotate=True)


def split_and_write_kv(
    qkv_RAD: torch.Tensor, step: Rope, q_out_RHD: torch.Tensor, kv_N2KSD: torch.Tensor
) -> None:
    """The same without rotation, for models with learned positions; `step`'s tables are not read."""
    _launch_rope(qkv_RAD, step, q_out_RHD, kv_N2KSD, None, 0.0, rotate=False)


def _check_step(step: Rope, dim: int) -> None:
    for table, name in ((step.cos_PC, "cos"), (step.sin_PC, "sin")):
        if table.dtype != torch.float32 or table.shape[1] != dim // 2 or table.stride(1) != 1:
            raise ValueError(f"{name}: need fp32 [positions, {dim // 2}], the last dimension contiguous")
    if step.cos_PC.stride(0) != step.sin_PC.stride(0):
        raise ValueError("cos, sin: row strides differ")


def _launch_rope(
    qkv_RAD: torch.Tensor,
    step: Rope,
    q_out_RHD: torch.Tensor,
    kv_N2KSD: torch.Tensor,
    weight_HD: torch.Tensor | None,
    eps: float,
    rotate: bool,
) -> None:
    rows, all_heads, dim = qkv_RAD.shape
    heads = q_out_RHD.shape[1]
    _, two, kv_heads, page, kv_dim = kv_N2KSD.shape
    if two != 2 or kv_dim != dim or heads + 2 * kv_heads != all_heads:
        raise ValueError(
            f"qkv {tuple(qkv_RAD.shape)}, q_out {tuple(q_out_RHD.shape)} and kv {tuple(kv_N2KSD.shape)} do not fit"
        )
    if qkv_RAD.stride()[1:] != (dim, 1) or q_out_RHD.stride()[1:] != (dim, 1) or kv_N2KSD.stride(4) != 1:
        raise ValueError("qkv, q_out, kv: heads and dims of a row must be contiguous")
    if q_out_RHD.shape[0] < rows or len(step.slots_R) < rows or len(step.positions_R) < rows:
        raise ValueError(f"q_out, slots, positions: fewer than {rows} rows")
    if weight_HD is not None and (
        weight_HD.shape != (heads + kv_heads, dim)
        or weight_HD.dtype != torch.float32
        or not weight_HD.is_contiguous()
    ):
        raise ValueError(f"qk_norm_weight: need contiguous fp32 [{heads + kv_heads}, {dim}]")
    if not rows:
        return
    rope.rope_and_write_kv[(rows, -(-all_heads // _ROPE_HEADS))](
        qkv_RAD,
        step.positions_R,
        step.slots_R,
        step.cos_PC,
        step.sin_PC,
        step.cos_PC if weight_HD is None else weight_HD,
        q_out_RHD,
        kv_N2KSD,
        qkv_RAD.stride(0),
        step.cos_PC.stride(0),
        q_out_RHD.stride(0),
        *kv_N2KSD.stride()[:4],
        eps,
        HEADS=heads,
        KV_HEADS=kv_heads,
        DIM=dim,
        PAGE=page,
        NORM=weight_HD is not None,
        ROPE=rotate,
        BLOCK_HEADS=_ROPE_HEADS,
        BLOCK_HALF=power_of_two(dim // 2),
        num_warps=4 if dim > 64 else 2,
    )


def copy_blocks(kv_LN2KSD: torch.Tensor, copies_C3: torch.Tensor) -> None:
    """For each (source block, target block, tokens): copy the first `tokens` slots, in every layer.

    copies: int32 [C, 3] on the same device. Copies run in any order: no block is both source and target.
    """
    layers, _, _, kv_heads, page, dim = kv_LN2KSD.shape
    if copies_C3.dtype != torch.int32 or copies_C3.shape[1:] != (3,) or not copies_C3.is_contiguous():
        raise ValueError("copies: need contiguous int32 [copies, 3]")
    if kv_LN2KSD.stride()[4:] != (dim, 1):
        raise ValueError("kv: the slots of a head must be contiguous")
    if not len(copies_C3):
        return
    copy.copy_blocks[(len(copies_C3), layers, 2 * kv_heads)](
        kv_LN2KSD,
        copies_C3,
        *kv_LN2KSD.stride()[:4],
        KV_HEADS=kv_heads,
        DIM=dim,
        PAGE=page,
        BLOCK=min(_COPY_BLOCK, power_of_two(page * dim)),
        num_warps=4,
    )


def _rows(tensor: torch.Tensor, name: str) -> tuple[int, int]:
    if tensor.dim() != 2 or tensor.stride(1) != 1:
        raise ValueError(f"{name}: need two dimensions, the last contiguous; have {tuple(tensor.shape)}")
    return tensor.shape[0], tensor.shape[1]


def _same_width(weight: torch.Tensor, hidden: int, name: str) -> None:
    if weight.shape != (hidden,) or not weight.is_contiguous():
        raise ValueError(f"{name}: need contiguous [{hidden}], have {tuple(weight.shape)}")
