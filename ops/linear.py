"""Linear layers whose rows do not depend on each other, and the self-test that finds how to get that.

Invariant (the contract of batch invariance): row r of `Linear(x)` is a function of row r of x, for every
number of rows that the `RowPolicy` allows, and for every number of threads. BLAS libraries choose their
kernel by shape and so do not promise it; which shapes agree differs from CPU to CPU. What was measured with
torch 2.13:

- AMD EPYC (avx512_bf16, no AMX): 1 row differs from 2 and more (in bf16 only from K=1280 on, in fp32 always);
  2 to 1,100 rows agree, at 1 and 2 threads, for every packing;
- Intel with AMX: bf16 agrees from 1 to 128 rows when packed for one row; fp32 from 16 rows on.

So nothing is assumed: `choose_row_policy` tries policies on the model's own weights, cheapest first.

Weights are packed by oneDNN once (`_reorder_linear_weight`, private in torch): twice the speed of `F.linear`
at small batches on an AMX machine. Where the op is missing or refuses, `F.linear` serves, with one log line.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F

logger = logging.getLogger(__name__)

_NO_SCALARS: list[Any] = []


@dataclass(frozen=True, slots=True)
class RowPolicy:
    """Numbers of rows at which linears agree: multiples of `quantum`, at most `tile` in one product (None:
    any).
    """

    quantum: int
    tile: int | None

    def padded(self, rows: int) -> int:
        """The smallest allowed number of rows that holds `rows`."""
        return -(-rows // self.quantum) * self.quantum


CANDIDATES = (
    RowPolicy(2, None),
    RowPolicy(2, 128),
    RowPolicy(4, None),
    RowPolicy(16, None),
    RowPolicy(16, 128),
    RowPolicy(16, 16),
)
"""Cheapest first. The last always calls one and the same shape."""


class Linear(Protocol):
    """x W^T + b. `add` adds a residual of the result's shape, rounding once where the library can."""

    out_features: int
    in_features: int

    def __call__(self, x_RK: torch.Tensor) -> torch.Tensor: ...
    def add(self, x_RK: torch.Tensor, residual_RN: torch.Tensor) -> torch.Tensor: ...


class PackedLinear:
    """A weight in oneDNN's own layout, packed for one row. The plain weight is not kept."""

    __slots__ = ("_bias", "_weight", "in_features", "out_features")

    def __init__(self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None) -> None:
        self.out_features, self.in_features = weight_NK.shape
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_NK.contiguous(), 1)
        self._bias = bias_N

    def __call__(self, x_RK: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(
            x_RK, self._weight, self._bias, "none", _NO_SCALARS, ""
        )
        return out

    def add(self, x_RK: torch.Tensor, residual_RN: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x_RK, residual_RN, self._weight, self._bias, "add"
        )
        return out


class PlainLinear:
    """`F.linear` over the weight as loaded."""

    __slots__ = ("_bias", "_weight", "in_features", "out_features")

    def __init__(self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None) -> None:
        self.out_features, self.in_features = weight_NK.shape
        self._weight = weight_NK
        self._bias = bias_N

    def __call__(self, x_RK: torch.Tensor) -> torch.Tensor:
        return F.linear(x_RK, self._weight, self._bias)

    def add(self, x_RK: torch.Tensor, residual_RN: torch.Tensor) -> torch.Tensor:
        return F.linear(x_RK, self._weight, self._bias).add_(residual_RN)


class TiledLinear:
    """A linear that is never given more than `tile` rows at once."""

    __slots__ = ("_linear", "_tile", "in_features", "out_features")

    def __init__(self, linear: Linear, tile: int) -> None:
        self._linear = linear
        self._tile = tile
        self.in_features = linear.in_features
        self.out_features = linear.out_features

    def __call__(self, x_RK: torch.Tensor) -> torch.Tensor:
        if x_RK.shape[0] <= self._tile:
            return self._linear(x_RK)
        return torch.cat([self._linear(part) for part in torch.split(x_RK, self._tile)])

    def add(self, x_RK: torch.Tensor, residual_RN: torch.Tensor) -> torch.Tensor:
        if x_RK.shape[0] <= self._tile:
            return self._linear.add(x_RK, residual_RN)
        pairs = zip(torch.split(x_RK, self._tile), torch.split(residual_RN, self._tile), strict=True)
        return torch.cat([self._linear.add(part, residual) for part, residual in pairs])


def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN packs weights of this dtype here; one log line when it does not."""
    try:
        probe = torch.zeros(16, 16, dtype=dtype)
        linear = PackedLinear(probe, None)
        linear.add(linear(probe), probe)
    except (AttributeError, RuntimeError) as error:
        logger.info(
            "oneDNN cannot pack %s weights here (%s); using F.linear", dtype, str(error).split("\n")[0]
        )
        return False
    return True


def choose_row_policy(
    linears: Iterable[Linear],
    dtype: torch.dtype,
    max_rows: int,
    set_threads: Callable[[int], None],
    threads: int,
) -> RowPolicy:
    """The first of CANDIDATES under which the rows of these linears agree, at one and at `threads` threads.

    linears: one of each shape, unpadded and untiled. max_rows: the largest number of rows a step may have.
    Cost: about 500 rows through each; falls back to the last candidate, which calls a single shape, and says
    so.
    """
    tests = list({(item.in_features, item.out_features): item for item in linears}.values())
    for policy in CANDIDATES:
        if all(_rows_agree(linear, dtype, policy, max_rows, set_threads, threads) for linear in tests):
            logger.info(
                "linears: rows agree in multiples of %d, tile %s", policy.quantum, policy.tile or "any"
            )
            return policy
    logger.warning("linears: rows agree under no policy; using products of %d rows", CANDIDATES[-1].quantum)
    return CANDIDATES[-1]


def _rows_agree(
    linear: Linear,
    dtype: torch.dtype,
    policy: RowPolicy,
    max_rows: int,
    set_threads: Callable[[int], None],
    threads: int,
) -> bool:
    limit = min(policy.tile or max_rows, max_rows)
    sizes = sorted({policy.padded(rows) for rows in (1, 3, 33, 128, 160) if rows <= limit})
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sizes[-1], linear.in_features, generator=generator).to(dtype)
    expected: torch.Tensor | None = None
    for count in sorted({1, threads}, reverse=True):
        set_threads(count)
        for rows in reversed(sizes):
            out = linear(x[:rows])
            expected = out if expected is None else expected
            # The first and the last rows of the batch: a kernel's blocks may differ by their place.
            if not torch.equal(out, expected[:rows]) or not torch.equal(linear(x[-rows:]), expected[-rows:]):
                return False
    return True
