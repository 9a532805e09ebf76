"""The decoder that train.py trains: Llama's equations in plain torch, with the weight names of the Hugging
Face class.

Invariant: `transformers.LlamaForCausalLM` loads `state_dict()` unchanged and computes the same logits. It
exists because it is quicker on a CPU than the class it mirrors. Leaves to others: the loop (train.py),
files (export.py).

Dimension key: B sequences, T tokens, D hidden, H query heads, K key heads, E head size, F feed-forward, V
vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Shape:
    vocab_size: int
    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 32
    max_position_embeddings: int = 4096
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5

    def fields(self) -> dict[str, int | float]:
        return asdict(self)


class Norm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x_BTD: Tensor) -> Tensor:
        return F.rms_norm(x_BTD, self.weight.shape, self.weight, self.eps)


def linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=0.02)
    return layer


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.key_heads, self.size = (
            shape.num_attention_heads,
            shape.num_key_value_heads,
            shape.head_dim,
        )
        self.q_proj = linear(shape.hidden_size, self.heads * self.size)
        self.k_proj = linear(shape.hidden_size, self.key_heads * self.size)
        self.v_proj = linear(shape.hidden_size, self.key_heads * self.size)
        self.o_proj = linear(self.heads * self.size, shape.hidden_size)

    def forward(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
        B, T, _ = x_BTD.shape
        q_BHTE = self.q_proj(x_BTD).view(B, T, self.heads, self.size).transpose(1, 2)
        k_BKTE = self.k_proj(x_BTD).view(B, T, self.key_heads, self.size).transpose(1, 2)
        v_BKTE = self.v_proj(x_BTD).view(B, T, self.key_heads, self.size).transpose(1, 2)
        groups = self.heads // self.key_heads
        k_BHTE = rotate(k_BKTE, cos_TE, sin_TE).repeat_interleave(groups, dim=1)
        v_BHTE = v_BKTE.repeat_interleave(groups, dim=1)
        q_BHTE = rotate(q_BHTE, cos_TE, sin_TE)
        mixed = F.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE, is_causal=True)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(B, T, -1))
        return out


def rotate(x: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    """RoPE over halves (Llama's layout in Hugging Face checkpoints)."""
    low, high = x.chunk(2, dim=-1)
    return x * cos_TE + torch.cat((-high, low), dim=-1) * sin_TE


class FeedForward(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = linear(shape.hidden_size, shape.intermediate_size)
        self.up_proj = linear(shape.hidden_size, shape.intermediate_size)
        self.down_proj = linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return out


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = FeedForward(shape)

    def forward(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), cos_TE, sin_TE)
        out: Tensor = x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
        return out


class Decoder(nn.Module):
    """Token ids [B, T] to final hidden states [B, T, D]; `logits` turns chosen states into scores [N, V]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = Norm(shape.hidden_size, shape.rms_norm_eps)
        frequencies = shape.rope_theta ** -(torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
        angles = torch.outer(torch.arange(shape.max_position_embeddings).float(), frequencies)
        self.register_buffer("cos", torch.cat((angles, angles), -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angles, angles), -1).sin(), persistent=False)

    def forward(self, ids_BT: Tensor) -> Tensor:
        T = ids_BT.shape[1]
        x_BTD = self.embed_tokens(ids_BT)
        cos_TE, sin_TE = (
            self.get_buffer("cos")[:T].to(x_BTD.dtype),
            self.get_buffer("sin")[:T].to(x_BTD.dtype),
        )
        for layer in self.layers:
            x_BTD = layer(x_BTD, cos_TE, sin_TE)
        out: Tensor = self.norm(x_BTD)
        return out

    def logits(self, x_ND: Tensor) -> Tensor:
        return F.linear(x_ND, self.embed_tokens.weight)
