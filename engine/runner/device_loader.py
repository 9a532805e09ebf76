"""Loads a model onto a GPU and divides the GPU's memory.

Responsible for: dtype, weights, a trial of the largest steps (which compiles kernels and shows what memory steps
need), the size of the KV cache, and one log line on each. Invariant: what is sized here is never exceeded by a step
that the limits allow. Errors name the flag to change. Left to others: steps (DeviceRunner).
"""

from __future__ import annotations

import gc
import logging
import math
import zlib
from dataclasses import replace
from pathlib import Path

import msgspec
import torch

from engine.batch import ScheduledBatch, ScheduledSequence, SlotInstall
from engine.config import GPU_STEP, EngineConfig, StepLimits, step_limits
from engine.models.config import ModelConfig, load_config
from engine.models.decoder import Decoder
from engine.models.layers import Weights
from engine.models.loader import FolderWeights
from engine.plan import Rows, build_plan
from engine.runner.device_memory import CONTEXT_BYTES, DeviceMemory, kv_cache_budget
from engine.runner.device_runner import DeviceRunner, RunnerLimits
from engine.runner.kv_cache import KvSizes, size_kv_cache
from engine.runner.loaded import LoadedRunner, LoadError, Progress
from engine.structured.grammar import Grammars
from engine.structured.tokenizer_json import converted_tokenizer, tokenizer_json
from engine.types import Ready, SamplingParams
from ops.cuda_attention import AttentionShape, usual_parts
from ops.dispatch import cuda_ops

logger = logging.getLogger(__name__)

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_GIB = 2**30
_LARGEST = SamplingParams(max_tokens=1, seed=0, top_p=0.9, presence_penalty=0.1, logprobs=1)
"""What takes most memory."""

_TRIALS = (
    SamplingParams(max_tokens=1, seed=0, temperature=0.0),
    SamplingParams(max_tokens=1, seed=0, logit_bias={0: 1.0}),
    SamplingParams(max_tokens=1, seed=0, allowed_token_ids=(0,)),
    SamplingParams(max_tokens=1, seed=0, allowed_token_ids=(0,), presence_penalty=0.1),
)
"""What else has kernels of its own: else they would be compiled under the first request that needs them."""


def load_runner(config: EngineConfig, progress: Progress) -> LoadedRunner:
    """Load the model of `config` onto the first GPU that this process sees. Raises LoadError."""
    return load_onto(torch.device("cuda", 0), config, progress)


def load_onto(device: torch.device, config: EngineConfig, progress: Progress) -> LoadedRunner:
    """The same for any device; the CPU serves where Triton interprets (fp32 and fp16). Raises LoadError."""
    try:
        return _load(device, config, progress)
    except torch.OutOfMemoryError as error:
        raise LoadError(
            f"the GPU's memory does not hold the model and its largest step ({str(error).split('.')[0]}); "
            "a smaller --max-num-batched-tokens or --max-num-seqs needs less"
        ) from error
    except (ValueError, OSError) as error:
        raise LoadError(str(error)) from error


def _load(device: torch.device, config: EngineConfig, progress: Progress) -> LoadedRunner:
    folder = Path(config.model)
    model = load_config(folder)
    dtype = _choose_dtype(config, model, device)
    steps = step_limits(config, gpu=device.type == "cuda")
    if device.type == "cuda":
        _warn_of_slow_paths(config, steps, device)
    progress("loading weights", 0.0)
    weights: Weights
    if config.load_format == "dummy":
        weights = RandomWeights(config.seed, dtype, device)
    else:
        files = FolderWeights(folder, dtype, lambda fraction: progress("loading weights", fraction))
        weights = DeviceWeights(files, device)
    with torch.inference_mode():
        decoder = Decoder(model, weights, cuda_ops(deterministic=config.deterministic))
    shape = AttentionShape(
        heads=model.num_heads,
        kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        block_size=config.block_size,
        dtype=dtype,
        scale=1.0 / math.sqrt(model.head_dim),
        group_major=True,
        deterministic=config.deterministic,
    )
    progress("compiling kernels", 0.0)
    limits = _try_largest_steps(config, steps, decoder, shape, device)
    progress("allocating the KV cache", 0.0)
    sizes = _size(config, model, dtype, device)
    converted = converted_tokenizer(folder)
    grammars = Grammars(tokenizer_json(folder, converted), model.vocab_size)
    runner = DeviceRunner(decoder, sizes, shape, device, limits, grammars)
    return LoadedRunner(runner, _ready(steps, runner, dtype, device, converted))


class DeviceWeights:
    """Tensors of a folder on a device, where they are packed too."""

    def __init__(self, files: FolderWeights, device: torch.device) -> None:
        self._files, self._device = files, device

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return self._files.get(name, shape).to(self._device)


class RandomWeights:
    """For `--load-format dummy`, made on the device: a function of seed, name, shape and kind of device."""

    def __init__(self, seed: int, dtype: torch.dtype, device: torch.device) -> None:
        self._seed, self._dtype, self._device = seed, dtype, device

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(shape, dtype=self._dtype, device=self._device)
        generator = torch.Generator(self._device).manual_seed(
            zlib.crc32(name.encode(), self._seed & 0xFFFFFFFF)
        )
        values = torch.randn(shape, generator=generator, device=self._device)
        return values.mul_(0.02).to(self._dtype)


def _choose_dtype(config: EngineConfig, model: ModelConfig, device: torch.device) -> torch.dtype:
    half = torch.bfloat16
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        half = torch.float16
    name = config.dtype if config.dtype != "auto" else model.dtype
    dtype = _DTYPES.get(name or "", half)
    if config.dtype == "auto" and dtype in (torch.float32, torch.bfloat16):
        dtype = half
    if dtype == torch.float32 and device.type == "cuda":
        logger.warning(
            "--dtype float32 leaves the GPU's matrix units unused: many times slower than bfloat16"
        )
    return dtype


def _warn_of_slow_paths(config: EngineConfig, steps: StepLimits, device: torch.device) -> None:
    """What is slower than a user may expect, a line each."""
    capability = torch.cuda.get_device_capability(device)
    if capability < (9, 0):
        logger.warning(
            "this GPU has compute capability %d.%d: kernels are laid out for 9.0, and slower here",
            *capability,
        )
    if steps.max_num_batched_tokens < GPU_STEP.max_num_batched_tokens:
        logger.warning(
            "--max-num-batched-tokens %d: prompts are computed faster in steps of %d",
            *(steps.max_num_batched_tokens, GPU_STEP.max_num_batched_tokens),
        )
    if "cuda-graphs" in config.disabled:
        logger.warning("--disable cuda-graphs: every decode step pays for its launches")
    if config.deterministic:
        logger.warning("--deterministic: products by a kernel of one shape, slower than cuBLAS")


def _try_largest_steps(
    config: EngineConfig,
    steps: StepLimits,
    decoder: Decoder,
    shape: AttentionShape,
    device: torch.device,
) -> RunnerLimits:
    """Run them over a KV cache of two blocks: a chunk of prefill at the context's end, and a full decode batch."""
    model, size = decoder.config, config.block_size
    length = min(config.max_model_len or model.max_positions, model.max_positions)
    limits = RunnerLimits(
        max_num_seqs=steps.max_num_seqs,
        max_rows=steps.max_num_batched_tokens + steps.max_num_seqs,
        graphs=device.type == "cuda" and "cuda-graphs" not in config.disabled,
    )
    if device.type != "cuda":
        return limits
    if not config.deterministic:
        limits = replace(limits, parts=usual_parts(limits.max_rows, shape, device))
    torch.cuda.reset_peak_memory_stats(device)
    runner = DeviceRunner(decoder, KvSizes(2, size, length, 0), shape, device, replace(limits, graphs=False))
    rows = min(steps.max_num_batched_tokens, length)
    runner.run(_trial_step([Rows(length - rows, rows, [1] * -(-length // size))], size))
    decodes = min(steps.max_num_seqs, steps.max_num_batched_tokens)
    runner.run(_trial_step([Rows(length - 1, 1, [1] * -(-length // size))] * decodes, size))
    for attention in shape.configs():  # a tile of each
        rows = min(attention.block_m // shape.group, steps.max_num_batched_tokens, length)
        runner.run(_trial_step([Rows(0, rows, [1] * -(-rows // size))], size))
    for params in _TRIALS:
        runner.run(_trial_step([Rows(0, 1, [1])], size, params))
    torch.cuda.synchronize(device)
    return replace(runner.limits, graphs=limits.graphs)


def _trial_step(rows: list[Rows], block_size: int, params: SamplingParams = _LARGEST) -> ScheduledBatch:
    """All sequences on block 1, which nobody reads afterwards."""
    sequences = [
        ScheduledSequence(slot, item.start, item.length, (0,) * item.length, sample=True)
        for slot, item in enumerate(rows)
    ]
    return ScheduledBatch(
        0,
        tuple(sequences),
        build_plan(rows, block_size, share=False),
        installs=tuple([SlotInstall(item.slot, params, (0,)) for item in sequences]),
        block_tables={item.slot: tuple(part.blocks) for item, part in zip(sequences, rows, strict=True)},
        copies=((0, 1, 1),),
    )


def _size(config: EngineConfig, model: ModelConfig, dtype: torch.dtype, device: torch.device) -> KvSizes:
    """Raises ValueError when nothing useful is left."""
    if device.type != "cuda":
        return size_kv_cache(config, model, dtype, 0)
    gc.collect()  # the trial's runner and its steps know each other
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    used = torch.cuda.max_memory_allocated(device)
    memory = DeviceMemory(total, free, used, torch.cuda.memory_reserved(device))
    budget = config.kv_cache_memory
    if budget is None:
        budget = kv_cache_budget(memory, config.gpu_memory_utilization, config.device_sharers)
        if budget == 0:
            raise ValueError(
                f"--gpu-memory-utilization {config.gpu_memory_utilization}: no memory is left for the KV cache: of "
                f"{total / _GIB:.1f} GiB, {free / _GIB:.1f} are free and the model takes {used / _GIB:.1f}"
            )
    elif budget > free:
        raise ValueError(f"--kv-cache-memory {budget}: the GPU has only {free} bytes free")
    sizes = size_kv_cache(msgspec.structs.replace(config, kv_cache_memory=budget), model, dtype, free)
    logger.info(
        "GPU memory: %.1f GiB, %.1f free after loading; %.1f for weights and steps, about %.1f for CUDA, "
        "%.1f for the KV cache (--gpu-memory-utilization %g, %d on this GPU)",
        *(total / _GIB, free / _GIB, used / _GIB, CONTEXT_BYTES / _GIB, sizes.total_bytes / _GIB),
        *(config.gpu_memory_utilization, config.device_sharers),
    )
    return sizes


def _ready(
    steps: StepLimits,
    runner: DeviceRunner,
    dtype: torch.dtype,
    device: torch.device,
    converted: bytes | None,
) -> Ready:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu, interpreted"
    return Ready(
        block_size=runner.block_size,
        num_blocks=runner.num_blocks - 1,
        max_model_len=runner.max_model_len,
        max_num_seqs=steps.max_num_seqs,
        max_num_batched_tokens=steps.max_num_batched_tokens,
        vocab_size=runner.vocab_size,
        device=name,
        dtype=str(dtype).removeprefix("torch."),
        kv_cache_bytes=runner.kv_cache_bytes,
        tokenizer=converted,
    )
