"""Between host and device without waiting, and how a GPU's memory is divided.

Responsible for: copies that neither side waits for (pinned memory, where there is a GPU; torch's pinned allocator
keeps a buffer until its copy is done), and the arithmetic of `--gpu-memory-utilization`, pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

CONTEXT_BYTES = 640 * 2**20
"""What CUDA, cuBLAS and loaded kernels take beside torch's allocator, roughly; graphs come on top of it."""

GRAPH_BYTES = 512 * 2**20
"""Kept free for captured graphs: some MiB each, and one pool of what a step needs."""


def upload(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """A tensor of the same dtype and shape, whose copy may still be under way."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


class Download:
    """A tensor on its way to the host; `get` is right once the device has come so far, which others wait for."""

    __slots__ = ("_host",)

    def __init__(self, tensor: torch.Tensor) -> None:
        if tensor.is_cpu:
            self._host = tensor
            return
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._host.copy_(tensor, non_blocking=True)

    def get(self) -> torch.Tensor:
        return self._host


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes. total, free: of the GPU, after loading. used: by this engine's torch, at the most it will need.

    held: by this engine's torch right now, a part of what is not free.
    """

    total: int
    free: int
    used: int
    held: int


def kv_cache_budget(memory: DeviceMemory, utilization: float, sharers: int) -> int:
    """How many bytes of KV cache this engine may have: its part of `utilization`, less what it needs otherwise.

    Never more than is free now, after its other needs: somebody else may be on the GPU. 0 when nothing is left.
    """
    share = int(memory.total * utilization / sharers)
    needs = memory.used + CONTEXT_BYTES + GRAPH_BYTES
    growth = max(0, memory.used - memory.held) + GRAPH_BYTES
    return max(0, min(share - needs, memory.free - growth))
