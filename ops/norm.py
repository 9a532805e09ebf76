"""RMS normalisation: the public op.

The weight is prepared once, when the model is loaded, into the form that the device's kernel wants; so the op
is an object that holds it.
"""

from __future__ import annotations

import torch

from ops import cpu


class RmsNorm:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension; see `ops.reference.rms_norm`.

    Row-wise: the result of a row does not depend on the rows beside it, nor on the number of threads.
    """

    __slots__ = ("_eps", "_weight")

    def __init__(self, weight_H: torch.Tensor, eps: float) -> None:
        self._weight = cpu.prepare_norm_weight(weight_H)
        self._eps = eps

    def __call__(self, x_RH: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] -> the same shape and dtype. The result may be a strided view (row stride 2 x
        hidden).
        """
        return cpu.rms_norm(x_RH, self._weight, self._eps)
