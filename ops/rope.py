"""Rotary embedding, QK-norm and the write into the KV pool, as one op."""

from __future__ import annotations

import torch

from ops import cpu
from ops.cpu import RopeStep

__all__ = ["RopeStep", "adjacent_pairs", "rope_and_write_kv"]


def adjacent_pairs(x: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Reorder the first dimension, heads x head_dim: what a checkpoint turns together, elements i and
    i + head_dim / 2 of a head, become neighbours. Products of a query and a key stay the same.
    """
    halves = x.reshape(-1, 2, head_dim // 2, *x.shape[1:])
    return halves.transpose(1, 2).reshape(x.shape)


def rope_and_write_kv(
    qkv_RAD: torch.Tensor,
    step: RopeStep,
    q_out_RHD: torch.Tensor,
    kv_pool_KSD: torch.Tensor,
    qk_norm_weight_HD: torch.Tensor | None = None,
    eps: float = 0.0,
) -> None:
    """Rotate queries and keys, write the queries to `q_out_RHD` and keys and values to their slots.

    qkv_RAD: [rows, heads + 2 x kv_heads, head_dim], overwritten; of queries and keys, elements 2i and 2i + 1 turn
    together (`adjacent_pairs`), and so they are written. Rows and heads may have any strides; where the rows of a
    head follow each other in memory, head_dim is a multiple of 32. kv_pool_KSD: [2 x kv_heads, slots, head_dim],
    keys first. qk_norm_weight_HD: [heads + kv_heads, head_dim] in fp32, an RMS norm per head before rotation.
    """
    cpu.rope_and_write_kv(qkv_RAD, step, q_out_RHD, kv_pool_KSD, qk_norm_weight_HD, eps)
