"""Loads a model onto the CPU: dtype, weights, KV memory, what computes its steps, threads.

Responsible for the order of all this, for the choice of a `Forward`, and for what the server is told (`Ready`).
Leaves to others: how each of them is made.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from engine.config import EngineConfig, step_limits
from engine.models.config import ModelConfig, load_config
from engine.models.decoder import Decoder
from engine.models.layers import Weights
from engine.models.loader import DummyWeights, FolderWeights
from engine.runner.forward import Forward
from engine.runner.kv_cache import KvCache, free_memory, size_kv_cache
from engine.runner.loaded import LoadedRunner, LoadError, Progress
from engine.runner.model_runner import ModelRunner
from engine.runner.threads import fixed_threads, time_threads, use_torch_threads
from engine.runner.torch_forward import make_torch_forward
from engine.structured.grammar import Grammars
from engine.structured.tokenizer_json import converted_tokenizer, tokenizer_json
from engine.types import Ready
from ops.dispatch import cpu_ops

logger = logging.getLogger(__name__)

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def load_runner(config: EngineConfig, progress: Progress) -> LoadedRunner:
    """Load the model of `config` and size everything. Raises LoadError with a line for the user.

    Pins the process to `config.cpu_cores` first, before torch starts threads.
    """
    try:
        return _load(config, progress)
    except (ValueError, OSError) as error:
        raise LoadError(str(error)) from error


def _load(config: EngineConfig, progress: Progress) -> LoadedRunner:
    most = _use_cores(config)
    folder = Path(config.model)
    model = load_config(folder)
    dtype = _dtype(config)
    use_torch_threads(most)
    limits = step_limits(config, gpu=False)
    max_rows = limits.max_num_batched_tokens + limits.max_num_seqs
    make = _make_compiled if _compiles(config, model, dtype) else _make_torch
    forward, cache = make(config, model, dtype, most, max_rows, progress)
    converted = converted_tokenizer(folder)
    grammars = Grammars(tokenizer_json(folder, converted), model.vocab_size)
    threads = fixed_threads(most)
    runner = ModelRunner(forward, cache, threads, model.vocab_size, limits.max_num_seqs, grammars)
    progress("computing a first step", 0.0)
    runner.probe(1)  # pays for kernels to be compiled or loaded, or for oneDNN's and MKL's own start
    if config.num_threads is None:
        progress("timing a step", 0.0)
        runner.choose_threads(time_threads(most, runner.probe, runner.use_threads))
    return LoadedRunner(runner, _ready(config, runner, dtype, most, converted))


def _compiles(config: EngineConfig, model: ModelConfig, dtype: torch.dtype) -> bool:
    """Whether steps are one compiled call."""
    if "compiled-kernels" in config.disabled or dtype != torch.float32:
        return False
    try:
        from engine.models.compiled import can_compile
    except ImportError as error:
        logger.info("computing with torch, which is slower for small models: %s", error)
        return False
    return can_compile(model, dtype, config.block_size)


def _make_compiled(
    config: EngineConfig,
    model: ModelConfig,
    dtype: torch.dtype,
    threads: int,
    max_rows: int,
    progress: Progress,
) -> tuple[Forward, KvCache]:
    from engine.runner.compiled_forward import make_compiled_forward

    weights = _weights(config, dtype, progress, kept=torch.bfloat16)
    return make_compiled_forward(config, model, weights, threads, max_rows)


def _make_torch(
    config: EngineConfig,
    model: ModelConfig,
    dtype: torch.dtype,
    threads: int,
    max_rows: int,
    progress: Progress,
) -> tuple[Forward, KvCache]:
    weights = _weights(config, dtype, progress)
    decoder = Decoder(model, weights, cpu_ops(dtype))
    cache = KvCache(size_kv_cache(config, model, dtype, free_memory()), model, dtype)
    progress("checking the CPU's arithmetic", 0.0)
    return make_torch_forward(decoder, cache, dtype, threads, max_rows), cache


def _weights(
    config: EngineConfig, dtype: torch.dtype, progress: Progress, kept: torch.dtype | None = None
) -> Weights:
    stage = "loading weights"
    progress(stage, 0.0)
    if config.load_format == "dummy":
        return DummyWeights(config.seed, dtype)
    return FolderWeights(Path(config.model), dtype, lambda fraction: progress(stage, fraction), kept=kept)


def _use_cores(config: EngineConfig) -> int:
    """Pin the process where that is asked for; the most threads it may use."""
    if config.cpu_cores is not None:
        os.sched_setaffinity(0, config.cpu_cores)
    return config.num_threads or len(os.sched_getaffinity(0))


def _dtype(config: EngineConfig) -> torch.dtype:
    if config.dtype != "auto":
        return _DTYPES[config.dtype]
    words = set(Path("/proc/cpuinfo").read_text().split())
    fast = words & {"avx512_bf16", "amx_bf16"}
    logger.info(
        "dtype: %s (%s)", "bfloat16" if fast else "float32", ", ".join(sorted(fast)) or "no fast bf16 here"
    )
    return torch.bfloat16 if fast else torch.float32


def _ready(
    config: EngineConfig, runner: ModelRunner, dtype: torch.dtype, threads: int, converted: bytes | None
) -> Ready:
    limits = step_limits(config, gpu=False)
    return Ready(
        block_size=runner.block_size,
        num_blocks=runner.num_blocks - 1,
        max_model_len=runner.max_model_len,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        vocab_size=runner.vocab_size,
        device="cpu",
        dtype=str(dtype).removeprefix("torch."),
        kv_cache_bytes=runner.kv_cache_bytes,
        num_threads=threads,
        tokenizer=converted,
    )
