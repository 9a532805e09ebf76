"""Which implementation of the ops a model's layers use. Chosen here, once, when the model is built.

Responsible for the choice alone: the CPU's torch calls (`ops.cpu`, `ops.linear`), or the GPU's Triton kernels and
cuBLAS (`ops.cuda`), which are imported when they are asked for: a CPU needs no Triton. Under Triton's interpreter
the kernels also run on CPU tensors, so the choice is the runner's and not the tensors'. `ops.reference` is never
chosen: it is what the others are tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ops.activation import gelu_tanh_and_mul, silu_and_mul
from ops.linear import PANEL, CpuLinears, Linear
from ops.norm import rms_norm
from ops.rope import adjacent_pairs, rope_and_write_kv


class MakeLinear(Protocol):
    """(weight [out, in], bias [out] or None, width of `Linear.parts`) -> the linear that the device runs best."""

    def __call__(
        self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None, width: int | None = None, /
    ) -> Linear: ...


class Norm(Protocol):
    """Normalises rows: [rows, hidden] -> the same."""

    def __call__(self, x_RH: torch.Tensor) -> torch.Tensor: ...


class Attend(Protocol):
    """A step's attention, prepared once and run by every layer with the same window."""

    def run(self, queries: torch.Tensor, kv_pool: torch.Tensor) -> torch.Tensor:
        """All rows over a layer's KV memory: [padded rows, heads x head_dim]."""
        ...


@dataclass(frozen=True, slots=True)
class LayerOps:
    """What layers are made of, and call. Meanings: the functions of the same name in `ops.reference`.

    rms_norm: (weight, eps) -> (the norm, what the linears that read it multiply the columns of their weights by;
    None: nothing).
    rope_and_write_kv: (qkv, the device's form of positions and slots, q_out, kv memory, QK-norm weight, eps).
    gated_width: the activations take a product's parts, of this width or a half of it; None: its whole rows.
    order_in_head: (weights [heads x head_dim, ...], head_dim) -> the same, the elements of a head in the order in
    which it wants queries and keys.
    """

    linear: MakeLinear
    rms_norm: Callable[[torch.Tensor, float], tuple[Norm, torch.Tensor | None]]
    gated_width: int | None
    silu_and_mul: Callable[[torch.Tensor], torch.Tensor]
    gelu_tanh_and_mul: Callable[[torch.Tensor], torch.Tensor]
    rope_and_write_kv: Callable[
        [torch.Tensor, Any, torch.Tensor, torch.Tensor, torch.Tensor | None, float], None
    ]
    order_in_head: Callable[[torch.Tensor, int], torch.Tensor]


def cpu_ops(dtype: torch.dtype) -> LayerOps:
    """The CPU's, for weights of that dtype. Activations take parts of four panels: they go over each part of a row
    on its own, and the product loses nothing by it.
    """
    return LayerOps(
        CpuLinears(dtype),
        rms_norm,
        4 * PANEL,
        silu_and_mul,
        gelu_tanh_and_mul,
        rope_and_write_kv,
        adjacent_pairs,
    )


def cuda_ops(*, deterministic: bool) -> LayerOps:
    """deterministic: products whose rows do not depend on each other, instead of cuBLAS."""
    from ops import cuda, cuda_layers

    return LayerOps(
        cuda_layers.InvariantLinear if deterministic else cuda_layers.CublasLinear,
        lambda weight, eps: (cuda_layers.RmsNorm(weight, eps), None),
        None,
        cuda.silu_and_mul,
        cuda.gelu_tanh_and_mul,
        cuda.rope_and_write_kv,
        lambda weight, _: weight,
    )
