"""The pieces of a decoder that are not attention: how weights become linears, the gated MLP, the rotary
table.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F

from engine.models.config import ModelConfig, RopeConfig
from ops.cpu import SIMD_QUANTUM
from ops.dispatch import LayerOps
from ops.linear import Linear


class Weights(Protocol):
    """Where a model's tensors come from: a folder, or a random generator."""

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The tensor in the model's dtype, or as it is stored where the loader keeps that. Raises ValueError when
        it is missing or of another shape.
        """
        ...


def scaled(weight_NK: torch.Tensor, scale_K: torch.Tensor | None) -> torch.Tensor:
    """The weight of a linear whose inputs are yet to be multiplied by `scale`: what their norm has left to it."""
    return weight_NK if scale_K is None else weight_NK * scale_K


class GatedMlp:
    """down(act(gate(x)) * up(x)), gate and up packed into one product."""

    packed = ("gate_proj", "up_proj")

    __slots__ = ("_activation", "_down", "_gate_up", "_in_parts")

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        prefix: str,
        ops: LayerOps,
        scale_H: torch.Tensor | None,
    ) -> None:
        ffn, hidden = config.intermediate_size, config.hidden_size
        padding = -ffn % SIMD_QUANTUM  # with zeros, which change nothing; see ops.cpu for why
        parts = [weights.get(f"{prefix}.{name}.weight", (ffn, hidden)) for name in self.packed]
        gate_up = torch.cat([F.pad(part, (0, 0, 0, padding)) for part in parts])
        bias = None
        if config.mlp_bias:
            biases = [weights.get(f"{prefix}.{name}.bias", (ffn,)) for name in self.packed]
            bias = torch.cat([F.pad(part, (0, padding)) for part in biases])
        width = None if ops.gated_width is None else math.gcd(ffn + padding, ops.gated_width)
        self._gate_up = ops.linear(scaled(gate_up, scale_H), bias, width)
        self._in_parts = width is not None
        down_bias = weights.get(f"{prefix}.down_proj.bias", (hidden,)) if config.mlp_bias else None
        self._down = ops.linear(
            F.pad(weights.get(f"{prefix}.down_proj.weight", (hidden, ffn)), (0, padding)), down_bias
        )
        self._activation = ops.silu_and_mul if config.activation == "silu" else ops.gelu_tanh_and_mul

    @property
    def linears(self) -> tuple[Linear, Linear]:
        """(called plainly, called with a residual)."""
        return self._gate_up, self._down

    def __call__(self, x_RH: torch.Tensor, residual_RH: torch.Tensor) -> torch.Tensor:
        gate_up = self._gate_up.parts(x_RH) if self._in_parts else self._gate_up(x_RH)
        return self._down.add(self._activation(gate_up), residual_RH)


class RotaryTable:
    """The rotations of every position as `ops.cpu.RopeStep` wants them, complex64 [positions, 1, head_dim / 2]."""

    __slots__ = ("_table",)

    def __init__(self, rope: RopeConfig, head_dim: int, max_positions: int) -> None:
        self._table = torch.complex(*rope_table(rope, head_dim, max_positions)).unsqueeze(1)

    def at(self, positions_R: torch.Tensor) -> torch.Tensor:
        """[R, 1, head_dim / 2]."""
        return self._table.index_select(0, positions_R)


def rope_table(rope: RopeConfig, head_dim: int, max_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(cos, sin) of every position's angles, times the factor on both: fp32 [positions, head_dim / 2]."""
    frequencies, scale = rope_frequencies(rope, head_dim, max_positions)
    angles = torch.arange(max_positions, dtype=torch.float32)[:, None] * frequencies[None]
    return angles.cos() * scale, angles.sin() * scale


def rope_frequencies(rope: RopeConfig, head_dim: int, max_positions: int) -> tuple[torch.Tensor, float]:
    """Angle per position of each pair, fp32 [head_dim / 2], and the factor on cos and sin.

    linear: position interpolation (Chen et al. 2023). dynamic: NTK-aware; transformers recomputes it as a
    sequence grows, which would make a position's logits depend on later ones, so here it is fixed for
    `max_positions`. llama3: Llama 3.1's, three bands of wavelengths. yarn: Peng et al. 2023, section 3.
    """
    theta = rope.theta
    if rope.kind == "dynamic":
        length = max(max_positions, rope.original_max_positions)
        growth = rope.factor * length / rope.original_max_positions - (rope.factor - 1)
        theta *= growth ** (head_dim / (head_dim - 2))
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = 1.0 / theta**exponents
    if rope.kind == "linear":
        return frequencies / rope.factor, 1.0
    if rope.kind == "llama3":
        return _llama3(rope, frequencies), 1.0
    if rope.kind == "yarn":
        return _yarn(rope, frequencies, head_dim), _yarn_scale(rope)
    return frequencies, 1.0


def _llama3(rope: RopeConfig, frequencies: torch.Tensor) -> torch.Tensor:
    """Short wavelengths stay, long ones are stretched by factor, those between are blended."""
    turns = rope.original_max_positions * frequencies / (2 * math.pi)  # within the original context
    span = rope.high_freq_factor - rope.low_freq_factor
    kept = ((turns - rope.low_freq_factor) / span).clamp(0.0, 1.0)
    return frequencies * (kept + (1.0 - kept) / rope.factor)


def _yarn(rope: RopeConfig, frequencies: torch.Tensor, head_dim: int) -> torch.Tensor:
    """As llama3, but blended linearly over the pairs' indices between two numbers of turns."""

    def pair_with(turns: float) -> float:
        ratio = rope.original_max_positions / (turns * 2 * math.pi)
        return head_dim * math.log(ratio) / (2 * math.log(rope.theta))

    low, high = pair_with(rope.beta_fast), pair_with(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    pairs = torch.arange(head_dim // 2, dtype=torch.float32)
    kept = 1.0 - ((pairs - low) / max(high - low, 0.001)).clamp(0.0, 1.0)
    return frequencies * (kept + (1.0 - kept) / rope.factor)


def _yarn_scale(rope: RopeConfig) -> float:
    def scale(weight: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * weight * math.log(rope.factor) + 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return scale(rope.mscale) / scale(rope.mscale_all_dim)
    return scale(1.0)
