"""Which implementation of the ops serves a tensor.

Responsible for the choice alone: today the CPU's torch calls (`ops.cpu`, `ops.cpu_attention`); Triton kernels
join here, imported lazily. `ops.reference` is never dispatched to: it is what the others are tested against.
"""

from __future__ import annotations

import torch


def require_cpu(tensor: torch.Tensor, op: str) -> None:
    """Raise ValueError when no implementation of `op` serves the tensor's device."""
    if not tensor.is_cpu:
        raise ValueError(f"{op}: no kernel for device {tensor.device.type}; only cpu is supported")
