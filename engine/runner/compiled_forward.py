"""Logits by one compiled call a step: small models in float32, where torch's price for each call is most of a step.

Responsible for the KV memory in the layout of the kernels, and for threads. Leaves to others: everything that is
computed (`engine.models.compiled`). Imports numba, and so is imported late.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from engine.batch import AttentionPlan
from engine.config import EngineConfig
from engine.models.compiled import CompiledDecoder, padded_head
from engine.models.config import ModelConfig
from engine.models.layers import Weights
from engine.runner.batch import StepInputs
from engine.runner.kv_cache import KvCache, free_memory, size_kv_cache
from engine.runner.threads import use_torch_threads
from ops.compiled.decoder import Pool
from ops.compiled.llvm import LANES

logger = logging.getLogger(__name__)


class CompiledForward:
    """Rows are not padded."""

    def __init__(self, decoder: CompiledDecoder) -> None:
        self._decoder = decoder

    @property
    def weight_bytes(self) -> int:
        """Of an element, as the weights lie in memory: 2 where the checkpoint has bfloat16."""
        return self._decoder.weight_bytes

    @property
    def clock(self) -> dict[str, int]:
        """CPU cycles of each part of a step (`ops.compiled.decoder.PARTS`) since the start."""
        return self._decoder.clock

    def padded(self, rows: int) -> int:
        return rows

    def use_threads(self, threads: int) -> None:
        use_torch_threads(threads)  # the sampler's
        self._decoder.use_threads(threads)

    def compute(self, inputs: StepInputs, plan: AttentionPlan) -> torch.Tensor:
        return self._decoder.compute(inputs, plan)


def make_compiled_forward(
    config: EngineConfig, model: ModelConfig, weights: Weights, threads: int, max_rows: int
) -> tuple[CompiledForward, KvCache]:
    """Size the KV memory, load the weights, and take the kernels from their cache or compile them."""
    in_memory = replace(model, head_dim=padded_head(model))
    sizes = size_kv_cache(config, in_memory, torch.float32, free_memory())
    cache = KvCache(sizes, in_memory, torch.float32, interleaved=LANES)
    pool = Pool(cache.pool.view(-1).numpy(), sizes.num_blocks * sizes.block_size, sizes.block_size)
    forward = CompiledForward(CompiledDecoder(model, weights, sizes.max_model_len, pool, max_rows, threads))
    logger.info("weights in memory: %s", "bfloat16" if forward.weight_bytes == 2 else "float32")
    return forward, cache
