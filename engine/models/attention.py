"""The attention block: packed QKV, rotary embedding, paged attention, output projection.

The order of query heads differs from the checkpoint's: group-major, [group, kv_heads, head_dim], as
`ops.cpu_attention` explains. Rows of the query projection and columns of the output projection are permuted
alike when they are loaded, so results are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.models.config import ModelConfig
from engine.models.layers import MakeLinear, Weights, tiled
from ops.attention import AttentionStep
from ops.linear import Linear, RowPolicy
from ops.rope import RopeStep, rope_and_write_kv


@dataclass(slots=True)
class StepState:
    """What the attention blocks of a step share.

    rope: angles and KV slots of the rows. queries: the flat buffer that blocks fill and read, one after
    another. attention: the prepared step for each distinct window. All rows are padded to the linears' row
    policy.
    """

    rope: RopeStep
    queries: torch.Tensor
    attention: dict[int | None, AttentionStep]


class Attention:
    """x -> residual + o(attention(rope(qkv(x)))), keys and values written to the layer's pool on the way."""

    packed = ("q_proj", "k_proj", "v_proj")

    __slots__ = ("_dim", "_eps", "_heads", "_kv_heads", "_output", "_qk_norm", "_qkv", "_window")

    def __init__(
        self, config: ModelConfig, weights: Weights, prefix: str, window: int | None, make: MakeLinear
    ) -> None:
        self._heads, self._kv_heads, self._dim = config.num_heads, config.num_kv_heads, config.head_dim
        self._eps = config.norm_eps
        self._window = window
        self._qkv = make(*self._load_qkv(config, weights, prefix))
        self._output = make(*self._load_output(config, weights, prefix))
        self._qk_norm = self._load_qk_norm(weights, prefix) if config.qk_norm else None

    def linears(self) -> list[Linear]:
        return [self._qkv, self._output]

    def apply_row_policy(self, policy: RowPolicy) -> None:
        self._qkv, self._output = tiled(self._qkv, policy), tiled(self._output, policy)

    def __call__(
        self, x_RH: torch.Tensor, residual_RH: torch.Tensor, step: StepState, kv_pool_KSD: torch.Tensor
    ) -> torch.Tensor:
        rows, heads, dim = x_RH.shape[0], self._heads, self._dim
        qkv = self._qkv(x_RH).view(rows, heads + 2 * self._kv_heads, dim)
        queries = step.queries.as_strided((rows, heads, dim), (heads * dim, dim, 1))
        rope_and_write_kv(qkv, step.rope, queries, kv_pool_KSD, self._qk_norm, self._eps)
        return self._output.add(step.attention[self._window].run(step.queries, kv_pool_KSD), residual_RH)

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
