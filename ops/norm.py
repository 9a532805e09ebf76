"""RMS normalisation: the public op.

The weight is prepared once, when the model is loaded, into the form that the device's kernel wants; so the op
is an object that holds it, or leaves it to the linears that read its results.
"""

from __future__ import annotations

import math

import torch

from ops import cpu


class RmsNorm:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension; see `ops.reference.rms_norm`. For rows of less
    than 32 bits.

    Row-wise: the result of a row does not depend on the rows beside it, nor on the number of threads.
    """

    __slots__ = ("_eps", "_weight")

    def __init__(self, weight_H: torch.Tensor, eps: float) -> None:
        self._weight = cpu.prepare_norm_weight(weight_H)
        self._eps = eps

    def __call__(self, x_RH: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] -> the same shape and dtype. The result is a strided view (row stride 2 x hidden)."""
        return cpu.rms_norm(x_RH, self._weight, self._eps)


class UnitNorm:
    """x / sqrt(sum(x^2) + hidden x eps) over the last dimension: an RMS norm without its weight, and without the
    factor sqrt(hidden). For rows in fp32; row-wise, too.
    """

    __slots__ = ("_floor",)

    def __init__(self, hidden: int, eps: float) -> None:
        self._floor = torch.tensor(hidden * eps)  # a Python number costs 3 us more in every call

    def __call__(self, x_RH: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] -> the same shape and dtype."""
        return x_RH * cpu.over_norm(x_RH, self._floor)


def rms_norm(weight_H: torch.Tensor, eps: float) -> tuple[RmsNorm | UnitNorm, torch.Tensor | None]:
    """(the norm, what its readers multiply the columns of their weights by; None: nothing)."""
    if weight_H.dtype == torch.float32:
        hidden = len(weight_H)
        return UnitNorm(hidden, eps), weight_H * math.sqrt(hidden)
    return RmsNorm(weight_H, eps), None
