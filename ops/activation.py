"""Gated activations: the public ops. See `ops.reference` for their meaning."""

from __future__ import annotations

import torch

from ops import cpu


def silu_and_mul(gate_up_R2F: torch.Tensor) -> torch.Tensor:
    """[rows, 2 x ffn], gate first -> silu(gate) * up, [rows, ffn]. ffn must be a multiple of 64 (pad
    weights).
    """
    return cpu.silu_and_mul(gate_up_R2F)


def gelu_tanh_and_mul(gate_up_R2F: torch.Tensor) -> torch.Tensor:
    """[rows, 2 x ffn], gate first -> gelu_tanh(gate) * up, [rows, ffn]. ffn must be a multiple of 64."""
    return cpu.gelu_tanh_and_mul(gate_up_R2F)
