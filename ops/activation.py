"""Gated activations: the public ops. See `ops.reference` for their meaning."""

from __future__ import annotations

import torch

from ops import cpu


def silu_and_mul(gate_up_RPW: torch.Tensor) -> torch.Tensor:
    """A row's 2 x ffn results, gate first, as `Linear.parts` -> silu(gate) * up, [rows, ffn].

    ffn must be a multiple of 64 (pad weights). Of parts whose rows follow each other in memory the width must be a
    multiple of 32, and the dtype fp32.
    """
    return cpu.silu_and_mul(gate_up_RPW)


def gelu_tanh_and_mul(gate_up_RPW: torch.Tensor) -> torch.Tensor:
    """The same with gelu_tanh(gate) * up."""
    return cpu.gelu_tanh_and_mul(gate_up_RPW)
