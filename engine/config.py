"""How one engine process is set up. Built by the server, sent as the first frame, immutable after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

EngineKind = Literal["torch", "sim"]
Device = Literal["auto", "cpu", "cuda"]
LoadFormat = Literal["safetensors", "dummy"]


class SimConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The simulated runner's latency model: t_step = base + per_seq*rows + per_kv*kv_tokens + per_prefill*n."""

    vocab_size: int = 4096
    base_ms: float = 1.0
    per_sequence_ms: float = 0.02
    per_kv_token_ms: float = 0.0
    per_prefill_token_ms: float = 0.01
    crash_token: int | None = None  # in a prompt it kills the process: a fault to test against


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes are in tokens unless a name says otherwise. None: chosen at start from model and machine."""

    kind: EngineKind = "torch"
    model: str = ""  # a local folder; the server has resolved hub ids
    load_format: LoadFormat = "safetensors"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    device: Device = "auto"  # auto: a GPU if torch sees one
    visible_device: str | None = None  # the process's CUDA_VISIBLE_DEVICES; None: as the server's
    device_sharers: int = 1  # engines on the same GPU, this one included
    gpu_memory_utilization: float = 0.9  # of the GPU's memory, by all its engines together
    deterministic: bool = False  # on a GPU: batch-invariant kernels
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None  # the token budget of one step
    block_size: int = 64
    kv_cache_memory: int | None = None  # bytes
    num_threads: int | None = None
    cpu_cores: tuple[int, ...] | None = None  # pin the process to these
    seed: int = 0
    disabled: frozenset[str] = frozenset()  # toggles of `--disable`
    sim: SimConfig = SimConfig()
    inject_faults: bool = False  # steps raise on signals: engine/runner/injection.py


@dataclass(frozen=True, slots=True)
class StepLimits:
    """The most that one step computes: sequences, and tokens of all of them."""

    max_num_seqs: int
    max_num_batched_tokens: int


CPU_STEP = StepLimits(64, 512)
GPU_STEP = StepLimits(256, 2048)
"""Decoding is bound by memory up to some 200 rows, and 2048 tokens of prefill keep the matrix units busy; more only
lets those wait longer that decode beside them."""


def step_limits(config: EngineConfig, *, gpu: bool) -> StepLimits:
    """What the configuration says, and where it says nothing, what suits the device."""
    usual = GPU_STEP if gpu else CPU_STEP
    return StepLimits(
        usual.max_num_seqs if config.max_num_seqs is None else config.max_num_seqs,
        usual.max_num_batched_tokens
        if config.max_num_batched_tokens is None
        else config.max_num_batched_tokens,
    )
