"""The parts of a layer that hold weights, on a GPU: linears and norms in the forms that `ops.dispatch` asks for."""

from __future__ import annotations

import torch

from ops import cuda, cuda_linear
from ops.linear import PlainLinear


class CublasLinear(PlainLinear):
    """x W^T + b as cuBLAS computes it: fastest, but a row's bits may depend on how many rows there are."""

    __slots__ = ()

    def add(self, x_RK: torch.Tensor, residual_RN: torch.Tensor) -> torch.Tensor:
        """Overwrites the residual: the sum is made in the product's epilogue, and rounded once."""
        if self._bias is not None:
            return super().add(x_RK, residual_RN)
        return residual_RN.addmm_(x_RK, self._weight.t())


class InvariantLinear:
    """The same as one kernel in one tile shape: a row's bits depend on that row alone."""

    __slots__ = ("_bias", "_weight", "_width", "in_features", "out_features")

    def __init__(
        self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None, width: int | None = None
    ) -> None:
        self.out_features, self.in_features = weight_NK.shape
        self._width = width or self.out_features
        self._weight = weight_NK.contiguous()
        self._bias = bias_N

    def __call__(self, x_RK: torch.Tensor) -> torch.Tensor:
        return cuda_linear.linear(x_RK, self._weight, self._bias)

    def add(self, x_RK: torch.Tensor, residual_RN: torch.Tensor) -> torch.Tensor:
        return cuda_linear.linear(x_RK, self._weight, self._bias, residual_RN)

    def parts(self, x_RK: torch.Tensor) -> torch.Tensor:
        return self(x_RK).view(x_RK.shape[0], -1, self._width)


class RmsNorm:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, row by row."""

    __slots__ = ("_eps", "_weight")

    def __init__(self, weight_H: torch.Tensor, eps: float) -> None:
        self._weight = weight_H.float()
        self._eps = eps

    def __call__(self, x_RH: torch.Tensor) -> torch.Tensor:
        return cuda.rms_norm(x_RH, self._weight, self._eps)
