"""The attention block: packed QKV, rotary embedding, paged attention, output projection.

The order of query heads differs from the checkpoint's: group-major, [group, kv_heads, head_dim], as
`ops.cpu_attention` explains. Rows of the query projection and columns of the output projection are permuted
alike when they are loaded, so results are the same. So it is with the elements of a head, which queries and keys
have in the order that the device's rotary embedding wants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from engine.models.config import ModelConfig
from engine.models.layers import Weights, scaled
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
class LastRows:
    """The rows that the last layer goes on with, where they are few: of others it writes keys and values only.

    rows: int64 [L], those with logits. queries: the buffer for theirs. attention: theirs, prepared for L rows.
    """

    rows: torch.Tensor
    queries: torch.Tensor
    attention: Attend


@dataclass(frozen=True, slots=True)
class StepState:
    """What the attention blocks of a step share.

    queries: the flat buffer of all rows that blocks fill and read, one after another. attention: the prepared
    step for each distinct window. logit_tile: the most rows that the head takes at once; None: all. last: None
    where the last layer computes all rows, as the others do.
    """

    tiles: tuple[RowTile, ...]
    queries: torch.Tensor
    attention: Mapping[int | None, Attend]
    logit_tile: int | None = None
    last: LastRows | None = None


class Attention:
    """residual + o(attention(rope(qkv(x)))), in three parts: linears take a tile, attention takes all rows."""

    packed = ("q_proj", "k_proj", "v_proj")

    __slots__ = (
        "_dim",
        "_eps",
        "_heads",
        "_kv_heads",
        "_order_in_head",
        "_output",
        "_qk_norm",
        "_qkv",
        "_rope_and_write_kv",
        "_window",
    )

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        prefix: str,
        window: int | None,
        ops: LayerOps,
        scale_H: torch.Tensor | None,
    ) -> None:
        self._heads, self._kv_heads, self._dim = config.num_heads, config.num_kv_heads, config.head_dim
        self._eps = config.norm_eps
        self._window = window
        self._rope_and_write_kv = ops.rope_and_write_kv
        self._order_in_head = ops.order_in_head
        qkv, bias = self._load_qkv(config, weights, prefix)
        self._qkv = ops.linear(scaled(qkv, scale_H), bias, self._dim)
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
        qkv = self._qkv.parts(x_RH)
        width = heads * dim
        q = queries.as_strided((rows, heads, dim), (width, dim, 1), tile.begin * width)
        self._rope_and_write_kv(qkv, tile.rope, q, kv_pool_KSD, self._qk_norm, self._eps)

    def attend(self, step: StepState, kv_pool_KSD: torch.Tensor) -> torch.Tensor:
        """All rows over what has been written: [padded rows, heads x head_dim]."""
        return step.attention[self._window].run(step.queries, kv_pool_KSD)

    def attend_last(self, last: LastRows, queries: torch.Tensor, kv_pool_KSD: torch.Tensor) -> torch.Tensor:
        """Some rows of `queries` over what has been written: [L, heads x head_dim]."""
        width, count = self._heads * self._dim, len(last.rows)
        rows = queries[: queries.numel() // width * width].view(-1, width)
        torch.index_select(rows, 0, last.rows, out=last.queries[: count * width].view(count, width))
        return last.attention.run(last.queries, kv_pool_KSD)

    def output(self, attended_RW: torch.Tensor, residual_RH: torch.Tensor) -> torch.Tensor:
        """Project a tile's results and add them to its residual stream."""
        return self._output.add(attended_RW, residual_RH)

    def _load_qkv(
        self, config: ModelConfig, weights: Weights, prefix: str
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        sizes = [heads * self._dim for heads in (self._heads, self._kv_heads, self._kv_heads)]
        named = list(zip(self.packed, sizes, strict=True))
        q, k, v = (weights.get(f"{prefix}.{name}.weight", (size, config.hidden_size)) for name, size in named)
        weight = torch.cat((self._ordered(self._group_major(q)), self._ordered(k), v))
        if not config.qkv_bias:
            return weight, None
        q, k, v = (weights.get(f"{prefix}.{name}.bias", (size,)) for name, size in named)
        return weight, torch.cat((self._ordered(self._group_major(q)), self._ordered(k), v))

    def _load_output(
        self, config: ModelConfig, weights: Weights, prefix: str
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        hidden = config.hidden_size
        weight = weights.get(f"{prefix}.o_proj.weight", (hidden, self._heads * self._dim))
        bias = weights.get(f"{prefix}.o_proj.bias", (hidden,)) if config.output_bias else None
        return self._group_major(weight.t()).t().contiguous(), bias

    def _load_qk_norm(self, weights: Weights, prefix: str) -> torch.Tensor:
        names = (f"{prefix}.{name}.weight" for name in ("q_norm", "k_norm"))
        q, k = (self._ordered(weights.get(name, (self._dim,)).float()) for name in names)
        return torch.cat((q.expand(self._heads, -1), k.expand(self._kv_heads, -1)))

    def _ordered(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._order_in_head(tensor, self._dim)

    def _group_major(self, tensor: torch.Tensor) -> torch.Tensor:
        """Reorder the first dimension from [kv_heads, group, head_dim] to [group, kv_heads, head_dim]."""
        split = tensor.reshape(self._kv_heads, self._heads // self._kv_heads, self._dim, *tensor.shape[1:])
        return split.transpose(0, 1).reshape(tensor.shape)
