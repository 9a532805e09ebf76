"""Rotary embedding, QK-norm and the write into the KV pool, as one op."""

from __future__ import annotations

import torch

from ops import cpu
from ops.cpu import RopeStep

__all__ = ["RopeStep", "rope_and_write_kv"]


def rope_and_write_kv(
    qkv_RAD: torch.Tensor,
    step: RopeStep,
    q_out_RHD: torch.Tensor,
    kv_pool_KSD: torch.Tensor,
    qk_norm_weight_HD: torch.Tensor | None = None,
    eps: float = 0.0,
) -> None:
    """Rotate queries and keys, write the queries to `q_out_RHD` and keys and values to their slots.

    qkv_RAD: [rows, heads + 2 x kv_heads, head_dim], overwritten. kv_pool_KSD: [2 x kv_heads, slots,
    head_dim], keys first. qk_norm_weight_HD: [heads + kv_heads, head_dim] in fp32, an RMS norm per head
    before rotation.
    """
    cpu.rope_and_write_kv(qkv_RAD, step, q_out_RHD, kv_pool_KSD, qk_norm_weight_HD, eps)
