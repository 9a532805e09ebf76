"""What a step cannot be faster than: the bytes it has to read, the sums it has to do, and this machine's rates.

    floor = max(bytes / bandwidth, FLOPs / rate)

Bytes are those of the weights as the engine holds them and of keys and values; activations stay in caches. The
rates are measured in this process: bandwidth by reading as many bytes as the step does (a model that fits into the
last level of cache is held to that cache's rate), FLOPs by the best of several dense products.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.models.config import ModelConfig

_MOST_BYTES = 2**30
_SECONDS = 0.15  # for each rate


@dataclass(frozen=True, slots=True)
class Work:
    """Bytes read and floating point operations."""

    bytes: float = 0.0
    flops: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.bytes + other.bytes, self.flops + other.flops)


class Machine:
    """Rates of `dtype` on `threads` threads; each bandwidth is measured once, when it is first asked for."""

    def __init__(self, dtype: torch.dtype, threads: int) -> None:
        self.dtype, self.threads = dtype, threads
        self.flops = max(self._product(size) for size in (512, 1024, 2048))
        self.bandwidths: dict[int, float] = {}

    def bandwidth(self, size: float) -> float:
        """Bytes a second of reading about `size` bytes over and over; measured for powers of two."""
        rounded = min(_MOST_BYTES, 1 << max(20, round(size).bit_length()))
        if rounded not in self.bandwidths:
            self.bandwidths[rounded] = self._read(rounded)
        return self.bandwidths[rounded]

    def floor_ms(self, work: Work, all_bytes: float) -> float:
        """Milliseconds of `work`, as part of a step that reads `all_bytes`."""
        return max(work.bytes / self.bandwidth(all_bytes), work.flops / self.flops) * 1e3

    def _product(self, size: int) -> float:
        a, b = (torch.randn(size, size).to(self.dtype) for _ in range(2))
        return 2 * size**3 / self._best(lambda: a @ b)

    def _read(self, size: int) -> float:
        """By a sum or by a product with a vector, whichever the machine does faster."""
        matrix = torch.ones(size // 4096, 1024)
        vector = torch.ones(1024)
        return size / min(self._best(matrix.sum), self._best(lambda: matrix @ vector))

    def _best(self, call: Callable[[], object]) -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        call()
        best, deadline = float("inf"), time.perf_counter() + _SECONDS
        while (begin := time.perf_counter()) < deadline:
            call()
            best = min(best, time.perf_counter() - begin)
        torch.set_num_threads(before)
        return best


def work_of_step(
    config: ModelConfig, rows: int, keys: int, logits: int, weight_bytes: int, kv_bytes: int
) -> dict[str, Work]:
    """The work of each part of a step that has any to speak of.

    rows: tokens computed. keys: over all rows, the keys each attends to, where rows of one sequence read theirs
    once (`kv_bytes` for all of them). logits: rows with logits. weight_bytes: of one weight.
    """
    hidden, heads, dim = config.hidden_size, config.num_heads, config.head_dim
    layers, ffn = config.num_layers, config.intermediate_size
    qkv = hidden * (heads + 2 * config.num_kv_heads) * dim

    def product(weights: int, of_rows: int) -> Work:
        return Work(weights * weight_bytes, 2.0 * weights * of_rows)

    return {
        "embed": Work(rows * hidden * weight_bytes),
        "qkv": product(layers * qkv, rows),
        "attention": Work(kv_bytes, 4.0 * layers * keys * heads * dim),
        "output": product(layers * heads * dim * hidden, rows),
        "gate_up": product(layers * 2 * hidden * ffn, rows),
        "down": product(layers * hidden * ffn, rows),
        "head": product(config.vocab_size * hidden, logits),
    }
