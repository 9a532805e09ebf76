"""The KV memory of an engine: how large it is, and the tensor.

Layout `[layer][k/v x kv_head][slot][dim]` with slot = block x block_size + offset. The design names
`[layer][block][k/v][kv_head][slot][dim]`; on the CPU heads come first, because then consecutive blocks are
one strided view for the attention kernel and need no gather (`ops.cpu_attention`). Block 0 is scratch: padded
rows write there and nobody reads it.

Invariant: sized once and touched at start, so that resident memory is known and flat, and the cost of a
failure is known before it happens.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.config import EngineConfig
from engine.models.config import ModelConfig
from ops.cpu import copy_block

logger = logging.getLogger(__name__)

DEFAULT_BYTES = 192 * 2**20
FREE_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class KvSizes:
    """num_blocks counts scratch block 0; max_model_len is what a sequence may grow to, in tokens."""

    num_blocks: int
    block_size: int
    max_model_len: int
    total_bytes: int


class KvCache:
    """Owns the pool. `layers[i]` is layer i's [2 x kv_heads, slots, head_dim], keys first.

    interleaved: so many slots of a head may lie in an order of their own, and are copied together.
    """

    def __init__(self, sizes: KvSizes, model: ModelConfig, dtype: torch.dtype, interleaved: int = 1) -> None:
        self.sizes = sizes
        self._interleaved = interleaved
        slots = sizes.num_blocks * sizes.block_size
        self.pool = torch.empty(model.num_layers, 2 * model.num_kv_heads, slots, model.head_dim, dtype=dtype)
        self.pool.zero_()  # touches every page
        self.layers = tuple(self.pool.unbind(0))

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` slots of block `source` to block `target`, with what is interleaved with them."""
        size, together = self.sizes.block_size, self._interleaved
        copy_block(self.pool, source * size, target * size, -(-tokens // together) * together)

    def scrub(self, blocks: list[int]) -> None:
        """Zero what is not finite in these blocks: a failed sequence's numbers must not reach their next
        owner.

        (A masked key does not count, but a masked NaN does: 0 x NaN is NaN.)
        """
        size = self.sizes.block_size
        for block in blocks:
            self.pool[:, :, block * size : (block + 1) * size].nan_to_num_(0.0, 0.0, 0.0)


def size_kv_cache(config: EngineConfig, model: ModelConfig, dtype: torch.dtype, free_bytes: int) -> KvSizes:
    """Decide the number of blocks and the longest sequence, and log them in one line.

    Raises ValueError, naming the flag, when the memory does not hold what was asked for.
    """
    per_token = 2 * model.num_layers * model.num_kv_heads * model.head_dim * dtype.itemsize
    budget = config.kv_cache_memory or min(DEFAULT_BYTES, int(free_bytes * FREE_SHARE))
    num_blocks = budget // (per_token * config.block_size)
    capacity = (num_blocks - 1) * config.block_size
    if capacity <= 0:
        least = 2 * per_token * config.block_size
        raise ValueError(
            f"KV cache of {budget} bytes holds no block; set --kv-cache-memory to {least} or more"
        )
    sizes = KvSizes(
        num_blocks=num_blocks,
        block_size=config.block_size,
        max_model_len=_max_model_len(config, model, capacity, per_token),
        total_bytes=num_blocks * per_token * config.block_size,
    )
    logger.info(
        "KV cache: %.0f MiB, %d tokens in %d blocks of %d (--kv-cache-memory changes it)",
        sizes.total_bytes / 2**20,
        capacity,
        num_blocks - 1,
        config.block_size,
    )
    return sizes


def free_memory() -> int:
    """Bytes this process may still take: of the machine, or of its cgroup where that allows less."""
    available = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
        available = min(available, max(0, int(text) - int(used.read_text())))
    return available


def _max_model_len(config: EngineConfig, model: ModelConfig, capacity: int, per_token: int) -> int:
    wanted = config.max_model_len or model.max_positions
    if wanted > model.max_positions:
        raise ValueError(f"--max-model-len {wanted} exceeds the {model.max_positions} positions of the model")
    if wanted <= capacity:
        return wanted
    needed = (wanted + 2 * config.block_size) * per_token
    hint = f"--kv-cache-memory {needed} would hold {wanted}"
    if config.max_model_len is not None:
        raise ValueError(f"--max-model-len {wanted}: the KV cache holds {capacity} tokens only; {hint}")
    logger.warning(
        "max_model_len lowered to %d, what the KV cache holds (the model has %d); %s", capacity, wanted, hint
    )
    return capacity
