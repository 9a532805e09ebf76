"""The decoder that serves every supported family: Llama, Mistral, Qwen2 and Qwen3 differ in switches only.

Responsible for the forward pass of one step over all its rows. Invariant: a row's logits are a function of
its own sequence's ids (every op used here is row-wise; see `ops`). Left to others: which rows there are, KV
memory, sampling.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from engine.models.attention import Attention, StepState
from engine.models.config import ModelConfig
from engine.models.layers import GatedMlp, MakeLinear, Weights, tiled
from ops.linear import Linear, RowPolicy
from ops.norm import RmsNorm


class DecoderLayer:
    """Pre-norm attention and gated MLP, each adding to the residual stream."""

    __slots__ = ("attention", "input_norm", "mlp", "post_norm")

    def __init__(self, config: ModelConfig, weights: Weights, index: int, make: MakeLinear) -> None:
        prefix, hidden = f"model.layers.{index}", (config.hidden_size,)
        self.input_norm = RmsNorm(weights.get(f"{prefix}.input_layernorm.weight", hidden), config.norm_eps)
        self.attention = Attention(config, weights, f"{prefix}.self_attn", config.windows[index], make)
        self.post_norm = RmsNorm(
            weights.get(f"{prefix}.post_attention_layernorm.weight", hidden), config.norm_eps
        )
        self.mlp = GatedMlp(config, weights, f"{prefix}.mlp", make)

    def __call__(self, x_RH: torch.Tensor, step: StepState, kv_pool_KSD: torch.Tensor) -> torch.Tensor:
        x_RH = self.attention(self.input_norm(x_RH), x_RH, step, kv_pool_KSD)
        return self.mlp(self.post_norm(x_RH), x_RH)


class Decoder:
    """Weights and forward pass. Immutable but for `apply_row_policy`, which is called once after loading."""

    __slots__ = ("_embedding", "_head", "_layers", "_norm", "config")

    def __init__(self, config: ModelConfig, weights: Weights, make: MakeLinear) -> None:
        table = (config.vocab_size, config.hidden_size)
        self.config = config
        embedding = weights.get("model.embed_tokens.weight", table)
        self._embedding = embedding.clone()  # its own memory, or a view would keep the whole file mapped
        self._layers = [DecoderLayer(config, weights, index, make) for index in range(config.num_layers)]
        self._norm = RmsNorm(weights.get("model.norm.weight", (config.hidden_size,)), config.norm_eps)
        head = self._embedding if config.tie_embeddings else weights.get("lm_head.weight", table)
        self._head = make(head, None)

    def linears(self) -> list[Linear]:
        """One layer's linears and the head: one of each shape."""
        first = self._layers[0]
        return [*first.attention.linears(), *first.mlp.linears(), self._head]

    def apply_row_policy(self, policy: RowPolicy) -> None:
        for layer in self._layers:
            layer.attention.apply_row_policy(policy)
            layer.mlp.apply_row_policy(policy)
        self._head = tiled(self._head, policy)

    def forward(
        self,
        ids_R: torch.Tensor,
        step: StepState,
        kv_pools: Sequence[torch.Tensor],
        logit_rows: torch.Tensor | None,
    ) -> torch.Tensor:
        """Compute all rows; logits [len(logit_rows), vocab] in the model's dtype, of all rows when None.

        ids and logit_rows: int64, their lengths multiples of the row policy's quantum (logit_rows may be
        empty).
        """
        x = F.embedding(ids_R, self._embedding)
        for layer, pool in zip(self._layers, kv_pools, strict=True):
            x = layer(x, step, pool)
        if logit_rows is not None:
            if not len(logit_rows):
                return x.new_empty(0, self.config.vocab_size)
            x = x.index_select(0, logit_rows)
        return self._head(self._norm(x))
