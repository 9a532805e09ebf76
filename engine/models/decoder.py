"""The decoder that serves every supported family: Llama, Mistral, Qwen2 and Qwen3 differ in switches only.

Responsible for the forward pass of one step over all its rows. Invariant: a row's logits are a function of
its own sequence's ids (every op used here is row-wise; see `ops`). Left to others: which rows there are, KV
memory, sampling.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from engine.models.attention import Attention, LastRows, StepState
from engine.models.config import ModelConfig
from engine.models.layers import GatedMlp, Weights, scaled
from ops.dispatch import LayerOps
from ops.linear import Linear


class DecoderLayer:
    """Pre-norm attention and gated MLP, each adding to the residual stream."""

    __slots__ = ("attention", "input_norm", "mlp", "post_norm")

    def __init__(self, config: ModelConfig, weights: Weights, index: int, ops: LayerOps) -> None:
        prefix, hidden = f"model.layers.{index}", (config.hidden_size,)
        self.input_norm, scale_H = ops.rms_norm(
            weights.get(f"{prefix}.input_layernorm.weight", hidden), config.norm_eps
        )
        window = config.windows[index]
        self.attention = Attention(config, weights, f"{prefix}.self_attn", window, ops, scale_H)
        self.post_norm, scale_H = ops.rms_norm(
            weights.get(f"{prefix}.post_attention_layernorm.weight", hidden), config.norm_eps
        )
        self.mlp = GatedMlp(config, weights, f"{prefix}.mlp", ops, scale_H)

    def __call__(
        self, tiles_RH: list[torch.Tensor], step: StepState, kv_pool_KSD: torch.Tensor
    ) -> list[torch.Tensor]:
        self.write(tiles_RH, step, kv_pool_KSD)
        attended = self.attention.attend(step, kv_pool_KSD)
        if len(tiles_RH) == 1:
            return [self._finish(tiles_RH[0], attended)]
        pairs = zip(tiles_RH, step.tiles, strict=True)
        return [self._finish(x_RH, attended[tile.begin : tile.end]) for x_RH, tile in pairs]

    def last(
        self, tiles_RH: list[torch.Tensor], step: StepState, last: LastRows, kv_pool_KSD: torch.Tensor
    ) -> torch.Tensor:
        """As a call, but only `last.rows` go on, as one tile."""
        self.write(tiles_RH, step, kv_pool_KSD)
        attended = self.attention.attend_last(last, step.queries, kv_pool_KSD)
        return self._finish(_joined(tiles_RH).index_select(0, last.rows), attended)

    def write(self, tiles_RH: list[torch.Tensor], step: StepState, kv_pool_KSD: torch.Tensor) -> None:
        """Keys and values of all rows, and nothing else."""
        for x_RH, tile in zip(tiles_RH, step.tiles, strict=True):
            self.attention.write(self.input_norm(x_RH), tile, step.queries, kv_pool_KSD)

    def _finish(self, x_RH: torch.Tensor, attended_RW: torch.Tensor) -> torch.Tensor:
        x_RH = self.attention.output(attended_RW, x_RH)
        return self.mlp(self.post_norm(x_RH), x_RH)


class Decoder:
    """Weights and forward pass; immutable."""

    __slots__ = ("_embedding", "_head", "_layers", "_norm", "config")

    def __init__(self, config: ModelConfig, weights: Weights, ops: LayerOps) -> None:
        table = (config.vocab_size, config.hidden_size)
        self.config = config
        embedding = weights.get("model.embed_tokens.weight", table)
        self._embedding = embedding.clone()  # its own memory, or a view would keep the whole file mapped
        self._layers = [DecoderLayer(config, weights, index, ops) for index in range(config.num_layers)]
        norm = weights.get("model.norm.weight", (config.hidden_size,))
        self._norm, scale_H = ops.rms_norm(norm, config.norm_eps)
        head = self._embedding if config.tie_embeddings else weights.get("lm_head.weight", table)
        self._head = ops.linear(scaled(head, scale_H), None)

    @property
    def head(self) -> Linear:
        return self._head

    def linears(self) -> tuple[list[Linear], list[Linear]]:
        """One linear of each shape but the head: (those called plainly, those called with a residual)."""
        layer = self._layers[0]
        plain, adding = zip(layer.attention.linears, layer.mlp.linears, strict=True)
        return list(plain), list(adding)

    def forward(
        self,
        ids_R: torch.Tensor,
        step: StepState,
        kv_pools: Sequence[torch.Tensor],
        logit_rows: torch.Tensor | None,
    ) -> torch.Tensor:
        """Compute all rows; logits [len(logit_rows), vocab] in the model's dtype, of all rows when None.

        ids and logit_rows: int64; their lengths are numbers of rows that the linears' RowPolicy has, logit_rows
        may also be empty. More rows than its tile are carried through the layers tile by tile.
        """
        x_RH = F.embedding(ids_R, self._embedding)
        tiles = [x_RH] if len(step.tiles) == 1 else [x_RH[tile.begin : tile.end] for tile in step.tiles]
        *before, (layer, pool) = zip(self._layers, kv_pools, strict=True)
        for each, its_pool in before:
            tiles = each(tiles, step, its_pool)
        if logit_rows is not None and not len(logit_rows):
            layer.write(tiles, step, pool)
            return x_RH.new_empty(0, self.config.vocab_size)
        if step.last is not None:
            return self._logits(layer.last(tiles, step, step.last, pool), step)
        x_RH = _joined(layer(tiles, step, pool))
        return self._logits(x_RH if logit_rows is None else x_RH.index_select(0, logit_rows), step)

    def _logits(self, x_RH: torch.Tensor, step: StepState) -> torch.Tensor:
        if step.logit_tile is None or x_RH.shape[0] <= step.logit_tile:
            return self._head(self._norm(x_RH))
        return torch.cat([self._head(self._norm(part)) for part in torch.split(x_RH, step.logit_tile)])


def _joined(tiles_RH: list[torch.Tensor]) -> torch.Tensor:
    return tiles_RH[0] if len(tiles_RH) == 1 else torch.cat(tiles_RH)
