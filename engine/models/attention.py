"""The attention block: packed QKV, rotary embedding, paged attention, output projection.

The order of query heads differs from the checkpoint's: group-major, [group, kv_heads, head_dim], as
`ops.cpu_attention` explains. Rows of the query projection and columns of the output projection are permuted
alike when they are loaded, so results are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from engine.models.config import ModelConfig
from engine.models.layers import Weights
from ops.dispatch import Attend, LayerOps
from ops.linear import Linear


@dataclass(frozen=True, slots=True)
class RowTile:
    """Rows begin..end of the padded batch, which go through the linears together; `rope` is theirs, in the form
    that the device's `LayerOps.rope_and_write_kv` takes.
    """

    begin: int
    end: int
    rope: object


@dataclass(frozen=True, slots=True)
class StepState:
    """What the attention blocks of a step share.

    queries: the flat buffer of all rows that blocks fill and read, one after another. attention: the prepared
    step for each distinct window.
    """

    tiles: tuple[RowTile, ...]
    queries: torch.Tensor
    attention: Mapping[int | None, Attend]


class Attention:
    """residual + o(attention(rope(qkv(x)))), in three parts: linears take a tile, attention takes all rows."""

    packed = ("q_proj", "k_proj", "v_proj")

    __slots__ = (
        "_dim",
        "_eps",
        "_heads",
        "_kv_heads",
        "_output",
        "_qk_norm",
        "_qkv",
        "_rope_and_write_kv",
        "_window",
    )

    def __init__(
        self, config: ModelConfig, weights: Weights, prefix: str, window: int | None, ops: LayerOps
    ) -> None:
        self._heads, self._kv_heads, self._dim = config.num_heads, config.num_kv_heads, config.head_dim
        self._eps = config.norm_eps
        self._window = window
        self._rope_and_write_kv = ops.rope_and_write_kv
        self._qkv = ops.linear(*self._load_qkv(config, weights, prefix))
        self._output = ops.linear(*self._load_output(config, weights, prefix))
        self._qk_norm = self._load_qk_norm(weights, prefix) if config.qk_norm else None

    @property
    def linears(self) -> tuple[Linear, Linear]:
        """(called plainly, called with a residual)."""
        return self._qkv, self._output

    def write(
        self, x_RH: torch.Tensor, tile: RowTile, queries: torch.Tensor, kv_pool_KSD: torch.Tensor
    ) -> None:
        """Project a tile: its queries to the buffer, its keys and values to the layer's pool."""
        rows, heads, dim = x_RH.shape[0], self._heads, self._dim
        qkv = self._qkv(x_RH).view(rows, heads + 2 * self._kv_heads, dim)
        width = heads * dim
        q = queries.as_strided((rows, heads, dim), (width, dim, 1), tile.begin * width)
        self._rope_and_write_kv(qkv, tile.rope, q, kv_pool_KSD, self._qk_norm, self._eps)

    def attend(self, step: StepState, kv_pool_KSD: torch.Tensor) -> torch.Tensor:
        """All rows over what has been written: [padded rows, heads x head_dim]."""
        return step.attention[self._window].run(step.queries, kv_pool_KSD)

    def output(self, attended_RW: torch.Tensor, residual_RH: torch.Tensor) -> torch.Tensor:
        """Project a tile's results and add them to its residual stream."""
        return self._output.add(attended_RW, residual_RH)

    def _load_qkv(
        self, config: ModelConfig, weights: Weights, prefix: str
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        sizes = [heads * self._dim for heads in (self._heads, self._kv_heads, self._kv_heads)]
        named = list(zip(self.packed, sizes, strict=True))
        q, k, v = (weights.get(f"{prefix}.{name}.weight", (size, config.hidden_size)) for name, size in named)
        weight = torch.cat((self._group_major(q), k, v))
        if not config.qkv_bias:
            return weight, None
        q, k, v = (weights.get(f"{prefix}.{name}.bias", (size,)) for name, size in named)
        return weight, torch.cat((self._group_major(q), k, v))

    def _load_output(
        self, config: ModelConfig, weights: Weights, prefix: str
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        hidden = config.hidden_size
        weight = weights.get(f"{prefix}.o_proj.weight", (hidden, self._heads * self._dim))
        bias = weights.get(f"{prefix}.o_proj.bias", (hidden,)) if config.output_bias else None
        return self._group_major(weight.t()).t().contiguous(), bias

    def _load_qk_norm(self, weights: Weights, prefix: str) -> torch.Tensor:
        q, k = (weights.get(f"{prefix}.{name}.weight", (self._dim,)).float() for name in ("q_norm", "k_norm"))
        return torch.cat((q.expand(self._heads, -1), k.expand(self._kv_heads, -1)))

    def _group_major(self, tensor: torch.Tensor) -> torch.Tensor:
        """Reorder the first dimension from [kv_heads, group, head_dim] to [group, kv_heads, head_dim]."""
        split = tensor.reshape(self._kv_heads, self._heads // self._kv_heads, self._dim, *tensor.shape[1:])
        return split.transpose(0, 1).reshape(tensor.shape)
