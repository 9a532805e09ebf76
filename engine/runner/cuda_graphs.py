"""Captured decode steps: one CUDA graph for each shape of step, captured when it first comes.

Responsible for: which batch sizes are padded to which bucket, and for capture and replay. A graph replays the
forward pass over the runner's fixed buffers; what differs from step to step (ids, tables, tiles) lies in the
buffers and is read on the device. Sampling stays outside, so that masks may be made while the forward runs.

Invariant: the first step of a shape runs without a graph, which compiles what it needs, and is captured afterwards;
its results are the ones that were computed. A capture that fails turns graphs off with one log line, and nothing
else. Graphs share one memory pool and may share the result's buffer: it is good until the next replay. Leaves to
others: the buffers, whose addresses must not change while a graph is kept (`forget`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

logger = logging.getLogger(__name__)

MOST_GRAPHS = 96
"""Each takes some MiB and tens of milliseconds; steps of further shapes run without."""

GraphKey = tuple[int, tuple[bool, ...]]
"""(bucket, which tile configurations are launched)"""


def bucket_sizes(most: int) -> tuple[int, ...]:
    """1, 2, 4, then multiples of 8 up to 64, of 16 up to 256, of 64 from there: under a quarter is padding."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, most + 64, 64)]
    return (*[size for size in sizes if size < most], most)


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    result: torch.Tensor


class StepGraphs:
    """Owns the graphs of a runner. `enabled` off: steps are padded to buckets all the same, and run as they are."""

    def __init__(self, max_num_seqs: int, *, enabled: bool) -> None:
        self._buckets = bucket_sizes(max_num_seqs)
        self._enabled = enabled
        self._graphs: dict[GraphKey, _Captured] = {}
        self._pool: Any = None  # torch's handle has no public type

    @property
    def num_captured(self) -> int:
        return len(self._graphs)

    def bucket(self, rows: int) -> int:
        """The size that so many decode rows are padded to; at most max_num_seqs rows."""
        return next(size for size in self._buckets if rows <= size)

    def run(self, key: GraphKey, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What `compute` gives: by replay where the step of this shape has been captured."""
        captured = self._graphs.get(key)
        if captured is not None:
            captured.graph.replay()
            return captured.result
        result = compute()
        if self._enabled and len(self._graphs) < MOST_GRAPHS:
            self._capture(key, compute)
        return result

    def forget(self) -> None:
        """The buffers have moved."""
        if self._graphs:
            logger.info("%d CUDA graphs are captured anew: the step buffers have grown", len(self._graphs))
            torch.cuda.synchronize()  # one may be replaying
            self._graphs.clear()

    def _capture(self, key: GraphKey, compute: Callable[[], torch.Tensor]) -> None:
        begun = time.perf_counter()
        try:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                result = compute()
        except Exception as error:  # one of the device's comes back with the next step
            self._enabled = False
            logger.warning("CUDA graphs are off, decoding is slower: %s", str(error).split("\n")[0])
            return
        self._graphs[key] = _Captured(graph, result)
        logger.debug(
            "CUDA graph %d: %d rows, tiles %s, %.0f ms",
            *(len(self._graphs), key[0], key[1], (time.perf_counter() - begun) * 1e3),
        )
