"""The models whose shapes are measured, and the fewest bytes and operations of a step of theirs.

Responsible for: folders with a config.json (and a tokenizer of one word a token id) for `--load-format dummy`, and
for the arithmetic of floors. Weights are counted in 2 bytes an element; the embedding is read by row, the head
whole. Leaves to others: bytes and operations a second (`machine`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.stats import RESULTS

ELEMENT = 2
"""Bytes of a weight and of a key's or value's element."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder. `positions`: its context in tokens."""

    name: str
    architecture: str
    model_type: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    positions: int
    tied: bool

    @property
    def layer_weights(self) -> int:
        """Elements of one layer's linears."""
        attention = self.head_dim * self.hidden * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.ffn

    @property
    def step_weights(self) -> int:
        """Elements that every step reads: all linears and the head."""
        return self.layers * self.layer_weights + self.hidden * self.vocab

    @property
    def parameters(self) -> int:
        return self.step_weights + (0 if self.tied else self.hidden * self.vocab)

    @property
    def kv_bytes(self) -> int:
        """Of one token, keys and values of all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * ELEMENT

    def decode_bytes(self, contexts: Sequence[int]) -> int:
        """What a step of one new token for each context (tokens that it sees) must read and write."""
        return self.step_weights * ELEMENT + (sum(contexts) + len(contexts)) * self.kv_bytes

    def decode_operations(self, contexts: Sequence[int]) -> int:
        return 2 * self.step_weights * len(contexts) + self.attention_operations(sum(contexts))

    def attention_operations(self, pairs: int) -> int:
        """Of so many (query, key) pairs: both products, all heads and layers."""
        return 4 * pairs * self.layers * self.heads * self.head_dim

    def prefill_operations(self, tokens: int, cached: int = 0) -> int:
        """Of a prompt's `tokens` after `cached` others; the head serves the last one only."""
        pairs = tokens * cached + tokens * (tokens + 1) // 2
        linears = 2 * self.layers * self.layer_weights * tokens
        return linears + self.attention_operations(pairs) + 2 * self.hidden * self.vocab


QWEN3_06B = ModelShape(
    "qwen3-0.6b", "Qwen3ForCausalLM", "qwen3", 1024, 28, 16, 8, 128, 3072, 151936, 40960, True
)
LLAMA_8B = ModelShape(
    "llama-3.1-8b", "LlamaForCausalLM", "llama", 4096, 32, 32, 8, 128, 14336, 128256, 131072, False
)
TINY_QWEN = ModelShape("tiny-qwen3", "Qwen3ForCausalLM", "qwen3", 128, 2, 4, 2, 32, 256, 2048, 4096, True)
TINY_LLAMA = ModelShape("tiny-llama", "LlamaForCausalLM", "llama", 128, 2, 4, 2, 32, 256, 2048, 4096, False)


def small_model(small: bool) -> ModelShape:
    """The 0.6B shape, or what stands for it in small."""
    return TINY_QWEN if small else QWEN3_06B


def large_model(small: bool) -> ModelShape:
    """The 8B shape, or what stands for it in small."""
    return TINY_LLAMA if small else LLAMA_8B


def folder(shape: ModelShape) -> Path:
    """The shape as a model folder without weights, written when it is not there."""
    path = RESULTS / "checkpoints" / f"shape-{shape.name}"
    if not (path / "tokenizer.json").exists():
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(json.dumps(_config(shape), indent=1))
        (path / "tokenizer_config.json").write_text("{}")
        partial = path / "tokenizer.part"
        partial.write_text(json.dumps(_tokenizer(shape.vocab)))
        partial.replace(path / "tokenizer.json")
    return path


def _config(shape: ModelShape) -> dict[str, object]:
    return {
        "architectures": [shape.architecture],
        "model_type": shape.model_type,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.ffn,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.positions,
        "rms_norm_eps": 1e-6,
        "rope_theta": 500000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "bfloat16",
    }


def _tokenizer(vocab: int) -> dict[str, object]:
    """A word a token: whatever is sampled becomes text at once."""
    return {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(vocab)}, "unk_token": "w0"},
    }
