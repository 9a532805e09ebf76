"""What a decoder looks like, read from a Hugging Face folder's config.json.

Responsible for turning many spellings into one `ModelConfig`; everything after it is family-free. Invariant:
a folder whose architecture or rope scaling is not supported is refused here, by name, before anything is
loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

MAX_CONFIG_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding: `kind` is default, linear, dynamic, llama3 or yarn; the other fields serve some of
    them.
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    original_max_positions: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder of gated-MLP layers with rotary attention. Sizes in elements, windows in tokens (None:
    full).
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    norm_eps: float
    rope: RopeConfig
    tie_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    activation: str
    windows: tuple[int | None, ...]  # one a layer
    dtype: str | None  # as stored, e.g. "bfloat16"


class _RawRope(msgspec.Struct):
    rope_type: str | None = None
    type: str | None = None
    rope_theta: float | None = None
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float | None = None
    beta_slow: float | None = None
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    partial_rotary_factor: float = 1.0


class _RawConfig(msgspec.Struct):
    """config.json as transformers writes it, versions 4 and 5; fields that no supported family has are
    ignored.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    architectures: list[str] | None = None
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float | None = None
    rope_scaling: _RawRope | None = None
    rope_parameters: _RawRope | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    hidden_act: str = "silu"
    sliding_window: int | None = None
    use_sliding_window: bool | None = None
    max_window_layers: int | None = None
    layer_types: list[str] | None = None
    dtype: str | None = None
    torch_dtype: str | None = None


@dataclass(frozen=True, slots=True)
class _Family:
    """How the members of a family differ. A bias None: as config.json's attention_bias says."""

    qkv_bias: bool | None = None
    output_bias: bool | None = None
    qk_norm: bool = False
    window_by_default: bool = False  # sliding_window counts without use_sliding_window


_FAMILIES = {
    "LlamaForCausalLM": _Family(),
    "MistralForCausalLM": _Family(qkv_bias=False, output_bias=False, window_by_default=True),
    "Qwen2ForCausalLM": _Family(qkv_bias=True, output_bias=False),
    "Qwen3ForCausalLM": _Family(qk_norm=True),
}

SUPPORTED_ARCHITECTURES = tuple(_FAMILIES)
_ROPE_KINDS = ("default", "linear", "dynamic", "llama3", "yarn")


def load_config(folder: Path) -> ModelConfig:
    """Read `folder`/config.json. Raises FileNotFoundError, or ValueError with a line that says what is
    wrong.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a model folder: it has no config.json")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    return parse_config(path.read_bytes(), str(path))


def parse_config(data: bytes, name: str = "config.json") -> ModelConfig:
    """The same from bytes; `name` is for messages."""
    architecture = _architecture(data, name)
    try:
        raw = msgspec.json.decode(data, type=_RawConfig, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}: {error}") from error
    family = _FAMILIES[architecture]
    if raw.hidden_act not in ("silu", "gelu_pytorch_tanh"):
        raise ValueError(f"{name}: hidden_act {raw.hidden_act!r} is not supported (silu, gelu_pytorch_tanh)")
    kv_heads = raw.num_key_value_heads or raw.num_attention_heads
    if raw.num_attention_heads % kv_heads:
        raise ValueError(f"{name}: {raw.num_attention_heads} heads cannot share {kv_heads} key-value heads")
    return ModelConfig(
        architecture=architecture,
        vocab_size=raw.vocab_size,
        hidden_size=raw.hidden_size,
        intermediate_size=raw.intermediate_size,
        num_layers=raw.num_hidden_layers,
        num_heads=raw.num_attention_heads,
        num_kv_heads=kv_heads,
        head_dim=raw.head_dim or raw.hidden_size // raw.num_attention_heads,
        max_positions=raw.max_position_embeddings,
        norm_eps=raw.rms_norm_eps,
        rope=_rope(raw, name),
        tie_embeddings=raw.tie_word_embeddings,
        qkv_bias=raw.attention_bias if family.qkv_bias is None else family.qkv_bias,
        output_bias=raw.attention_bias if family.output_bias is None else family.output_bias,
        mlp_bias=raw.mlp_bias,
        qk_norm=family.qk_norm,
        activation=raw.hidden_act,
        windows=_windows(raw, family),
        dtype=raw.dtype or raw.torch_dtype,
    )


def _architecture(data: bytes, name: str) -> str:
    class Named(msgspec.Struct):
        architectures: list[str] | None = None

    try:
        names = msgspec.json.decode(data, type=Named).architectures or ["(none named)"]
    except msgspec.DecodeError as error:
        raise ValueError(f"{name}: {error}") from error
    for architecture in names:
        if architecture in _FAMILIES:
            return architecture
    named, supported = ", ".join(names), ", ".join(SUPPORTED_ARCHITECTURES)
    raise ValueError(f"{name}: architecture {named} is not supported; supported: {supported}")


def _rope(raw: _RawConfig, name: str) -> RopeConfig:
    scaling = raw.rope_parameters or raw.rope_scaling or _RawRope()
    kind = scaling.rope_type or scaling.type or "default"
    if kind not in _ROPE_KINDS:
        raise ValueError(
            f"{name}: rope scaling {kind!r} is not supported; supported: {', '.join(_ROPE_KINDS)}"
        )
    if scaling.partial_rotary_factor != 1.0:
        raise ValueError(f"{name}: partial rotary embedding is not supported")
    original = scaling.original_max_position_embeddings or raw.max_position_embeddings
    return RopeConfig(
        theta=scaling.rope_theta or raw.rope_theta or 10000.0,
        kind=kind,
        factor=scaling.factor or raw.max_position_embeddings / original,
        original_max_positions=original,
        low_freq_factor=scaling.low_freq_factor,
        high_freq_factor=scaling.high_freq_factor,
        beta_fast=scaling.beta_fast or 32.0,
        beta_slow=scaling.beta_slow or 1.0,
        attention_factor=scaling.attention_factor,
        mscale=scaling.mscale,
        mscale_all_dim=scaling.mscale_all_dim,
        truncate=scaling.truncate,
    )


def _windows(raw: _RawConfig, family: _Family) -> tuple[int | None, ...]:
    layers = range(raw.num_hidden_layers)
    used = family.window_by_default if raw.use_sliding_window is None else raw.use_sliding_window
    if not used or not raw.sliding_window:
        return (None,) * raw.num_hidden_layers
    if raw.layer_types is not None:
        return tuple(
            raw.sliding_window if raw.layer_types[i] == "sliding_attention" else None for i in layers
        )
    first = 0 if family.window_by_default else (raw.max_window_layers or 0)
    return tuple(raw.sliding_window if i >= first else None for i in layers)
