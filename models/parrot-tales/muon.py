"""Muon (Jordan et al., 2024): momentum, then the update's matrix is brought near to an orthogonal one by
Newton-Schulz iterations.

`torch.optim.Muon` iterates in bfloat16, one matrix at a time; a CPU without bfloat16 spends more time there
than in the model. This one iterates in float32 over all matrices of one shape at once. The constants are those
of torch's, so that the rate means the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
_EPS = 1e-7


def orthogonalise(updates_NRC: Tensor) -> Tensor:
    """The matrices [N, R, C] with singular values near one."""
    wide = updates_NRC.shape[1] <= updates_NRC.shape[2]
    x = updates_NRC if wide else updates_NRC.mT
    x = x / x.flatten(1).norm(dim=1).clamp(min=_EPS)[:, None, None]
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """For matrices only, all of them with a gradient at every step. Owns their momentum."""

    def __init__(
        self, matrices: Iterable[Tensor], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                alike[matrix.shape].append(matrix)
            for matrices in alike.values():
                self._update(matrices, group["lr"], group["weight_decay"], group["momentum"])

    def _update(self, matrices: list[Tensor], lr: float, weight_decay: float, momentum: float) -> None:
        directions = [self._direction(matrix, momentum) for matrix in matrices]
        rows, columns = matrices[0].shape
        scale = lr * max(1.0, rows / columns) ** 0.5
        for matrix, update in zip(matrices, orthogonalise(torch.stack(directions)), strict=True):
            matrix.mul_(1 - lr * weight_decay).add_(update, alpha=-scale)

    def _direction(self, matrix: Tensor, momentum: float) -> Tensor:
        """Nesterov's: the gradient, moved by the momentum that already has it."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        state["momentum"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(state["momentum"], momentum)
