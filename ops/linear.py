"""Linear layers whose rows do not depend on each other, and the self-test that finds how to get that.

Invariant (the contract of batch invariance): row r of `Linear(x)` is a function of row r of x, for every
number of rows in the `RowPolicy`, and for every number of threads. BLAS libraries choose their
kernel by shape and so do not promise it; which shapes agree differs from CPU to CPU. What was measured with
torch 2.13:

- AMD EPYC (avx512_bf16, no AMX): 1 row differs from 2 and more (in bf16 only from K=1280 on, in fp32 always);
  2 to 512 rows agree, at 1 and 2 threads, for every packing;
- Intel with AMX: bf16 agrees from 1 to 128 rows when packed for one row; fp32 packed so from 16 rows on;
- Intel with AVX-512 and no more: fp32 packed for 16 rows agrees from 1 to 512 rows but for K=2048, where 1 row
  differs; packed for one row, 1 row differs always.

So nothing is assumed: `choose_row_policy` tries policies on the model's own weights, cheapest first.

Weights in fp32 that are not large are cut into panels for `torch.bmm` (`PanelLinear`), whose rows agree from 2 on
wherever this was tried. Others are packed by oneDNN once (`_reorder_linear_weight`, private in torch): twice the
speed of `F.linear` at small batches, but 35 us a call beside the product. oneDNN chooses the layout for a number of
rows (`PACKED_FOR`); in fp32 what it chooses for one row is made for products with a vector, and 1.2 to 1.3 times
slower at 2 to 16 rows than that for 16, which loses nothing at one. Where the op is missing or refuses, `F.linear`
serves, with one log line.
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
    """The numbers of rows that linears are ever given, ascending; the last is the tile that more rows are cut
    into. wide: multiples of the tile, descending, that are taken at once where there are as many rows: a call
    has its price, above all with threads to wake.

    Few sizes, since oneDNN compiles a kernel for every one: 0.4 to 2 ms and about 0.5 MB each. The self-test
    runs them all, so that no step pays for it, memory stays flat, and nothing untested is ever called.
    """

    sizes: tuple[int, ...]
    wide: tuple[int, ...] = ()

    @property
    def tile(self) -> int:
        return self.sizes[-1]

    @property
    def most(self) -> int:
        """The most rows of a call."""
        return self.wide[0] if self.wide else self.tile

    def padded(self, rows: int) -> int:
        """The number of rows that `rows` >= 1 rows are computed as: whole tiles, and one of `sizes`."""
        whole = (rows - 1) // self.tile * self.tile
        return whole + next(size for size in self.sizes if rows - whole <= size)

    def tiles(self, padded: int) -> list[tuple[int, int]]:
        """Cut that many rows (a value of `padded`) into (begin, end), wide ones first."""
        cuts: list[tuple[int, int]] = []
        begin = 0
        for size in (*self.wide, self.tile):
            cuts += [(at, at + size) for at in range(begin, padded - size + 1, size)]
            begin = cuts[-1][1] if cuts else 0
        return cuts if begin == padded else [*cuts, (begin, padded)]


_SIZES = (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)

_WIDE = (512, 256)

CANDIDATES = (
    RowPolicy((1, *_SIZES), _WIDE),
    RowPolicy((1, *_SIZES)),
    RowPolicy(_SIZES, _WIDE),
    RowPolicy(_SIZES),
    RowPolicy(tuple(size for size in _SIZES if size % 4 == 0)),
    RowPolicy(tuple(size for size in _SIZES if size % 16 == 0)),
    RowPolicy((16,)),
)
"""Cheapest first. Single rows are tried in fp32 only, and not with panels. The last always calls one and the same
shape.
"""

PACKED_FOR = {torch.float32: 16}
"""Rows that weights of a dtype are packed for; of others, one row."""

PANEL = 32
"""Outputs. Of 32, 64 and 128 the fastest at few rows, by little, and as fast as any at many."""

_LARGE = 1_200_000
"""Weights from which on a call's own price does not count: such linears are packed, have no wide tiles, and the
self-test leaves out the sizes between.
"""


class Linear(Protocol):
    """x W^T + b. `add` adds a residual of the result's shape, rounding once where the library can; it may overwrite
    the residual, and return it. `parts` is the same as a call, [rows, parts, width] of any strides, for the width
    that the linear was made for: where the result need not be put together.
    """

    out_features: int
    in_features: int

    def __call__(self, x_RK: torch.Tensor) -> torch.Tensor: ...
    def add(self, x_RK: torch.Tensor, residual_RN: torch.Tensor) -> torch.Tensor: ...
    def parts(self, x_RK: torch.Tensor) -> torch.Tensor: ...


class PackedLinear:
    """A weight in oneDNN's own layout. The plain weight is not kept."""

    __slots__ = ("_add", "_bias", "_multiply", "_weight", "_width", "in_features", "out_features")

    def __init__(
        self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None, width: int | None = None
    ) -> None:
        self.out_features, self.in_features = weight_NK.shape
        self._width = width or self.out_features
        self._multiply = torch.ops.mkldnn._linear_pointwise.default
        self._add = torch.ops.mkldnn._linear_pointwise.binary
        rows = PACKED_FOR.get(weight_NK.dtype, 1)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_NK.contiguous(), rows)
        self._bias = bias_N

    def __call__(self, x_RK: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self._multiply(x_RK, self._weight, self._bias, "none", _NO_SCALARS, "")
        return out

    def add(self, x_RK: torch.Tensor, residual_RN: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self._add(x_RK, residual_RN, self._weight, self._bias, "add")
        return out

    def parts(self, x_RK: torch.Tensor) -> torch.Tensor:
        return self(x_RK).view(x_RK.shape[0], -1, self._width)


class PanelLinear:
    """A weight cut into panels of `PANEL` outputs, or of the parts' width if that is a multiple, for `torch.bmm`.

    A panel is read in the order in which it lies in memory: at few rows 1.6 times as fast as `torch.mm` over the
    whole weight. Threads share the panels and never a sum.
    """

    __slots__ = ("_bias", "_panels_PKW", "_width", "in_features", "out_features")

    def __init__(
        self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None, width: int | None = None
    ) -> None:
        self.out_features, self.in_features = weight_NK.shape
        self._width = width or self.out_features
        panel = width if width is not None and width % PANEL == 0 else PANEL
        if self.out_features % panel:
            panel = self.out_features
        panels_PWK = weight_NK.reshape(-1, panel, self.in_features)
        self._panels_PKW = panels_PWK.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        self._bias = bias_N

    def __call__(self, x_RK: torch.Tensor) -> torch.Tensor:
        out_RN = x_RK.new_empty(x_RK.shape[0], self.out_features)
        self._as_panels(out_RN).copy_(self._multiply(x_RK))
        return out_RN if self._bias is None else out_RN.add_(self._bias)

    def add(self, x_RK: torch.Tensor, residual_RN: torch.Tensor) -> torch.Tensor:
        self._as_panels(residual_RN).add_(self._multiply(x_RK))
        return residual_RN if self._bias is None else residual_RN.add_(self._bias)

    def parts(self, x_RK: torch.Tensor) -> torch.Tensor:
        if self._panels_PKW.shape[2] != self._width:
            return self(x_RK).view(x_RK.shape[0], -1, self._width)
        out_RPW = self._multiply(x_RK).transpose(0, 1)
        return out_RPW if self._bias is None else out_RPW.add_(self._bias.view(-1, self._width))

    def _multiply(self, x_RK: torch.Tensor) -> torch.Tensor:
        """[panels, rows, width]."""
        panels, inner, _ = self._panels_PKW.shape
        x_PRK = x_RK.as_strided((panels, x_RK.shape[0], inner), (0, x_RK.stride(0), 1))
        return torch.bmm(x_PRK, self._panels_PKW)

    def _as_panels(self, out_RN: torch.Tensor) -> torch.Tensor:
        panels, _, width = self._panels_PKW.shape
        return out_RN.as_strided((panels, out_RN.shape[0], width), (width, out_RN.stride(0), 1))


class PlainLinear:
    """`F.linear` over the weight as loaded."""

    __slots__ = ("_bias", "_weight", "_width", "in_features", "out_features")

    def __init__(
        self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None, width: int | None = None
    ) -> None:
        self.out_features, self.in_features = weight_NK.shape
        self._width = width or self.out_features
        self._weight = weight_NK
        self._bias = bias_N

    def __call__(self, x_RK: torch.Tensor) -> torch.Tensor:
        return F.linear(x_RK, self._weight, self._bias)

    def add(self, x_RK: torch.Tensor, residual_RN: torch.Tensor) -> torch.Tensor:
        return F.linear(x_RK, self._weight, self._bias).add_(residual_RN)

    def parts(self, x_RK: torch.Tensor) -> torch.Tensor:
        return self(x_RK).view(x_RK.shape[0], -1, self._width)


class CpuLinears:
    """Makes the linears of a model, in the implementation that is fastest for their shape. Owns what it has found
    about the shapes.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._large = PackedLinear if can_pack(dtype) else PlainLinear
        self._agreeing: dict[torch.Size, bool] = {}

    def __call__(
        self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None, width: int | None = None
    ) -> Linear:
        if self._dtype != torch.float32 or weight_NK.numel() > _LARGE:
            return self._large(weight_NK, bias_N, width)
        linear = PanelLinear(weight_NK, bias_N, width)
        if weight_NK.shape not in self._agreeing:
            policy = RowPolicy(_SIZES)
            self._agreeing[weight_NK.shape] = _rows_agree(linear, True, policy, self._dtype, _keep_threads, 1)
        return linear if self._agreeing[weight_NK.shape] else self._large(weight_NK, bias_N, width)


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
    adding: Iterable[Linear],
    dtype: torch.dtype,
    set_threads: Callable[[int], None],
    threads: int,
    head: Linear | None = None,
) -> RowPolicy:
    """The first of CANDIDATES under which the rows of these linears agree, at one and at `threads` threads.

    linears, adding: those called plainly and with a residual, one of each shape; head: one that is never given
    wide tiles. Cost: a call of each at every size; of large ones at a few. Falls back to the last candidate,
    which calls a single shape, and says so.
    """
    tests = {(item.in_features, item.out_features, False): item for item in linears}
    tests |= {(item.in_features, item.out_features, True): item for item in adding}
    wide = not any(map(_is_large, tests.values()))
    # Of bf16 results a differing sum shows in one of ten thousand, too few to be found in a single row.
    pairs = dtype != torch.float32 or any(isinstance(each, PanelLinear) for each in (*tests.values(), head))
    for policy in CANDIDATES:
        if (policy.sizes[0] == 1 and pairs) or (policy.wide and not wide):
            continue
        checked = [(linear, adds, policy) for (*_, adds), linear in tests.items()]
        if head is not None:
            checked.append((head, False, RowPolicy(policy.sizes)))
        if all(_rows_agree(*each, dtype, set_threads, threads) for each in checked):
            logger.info("linears: rows agree at %d to %d rows", policy.sizes[0], policy.most)
            return policy
    logger.warning("linears: rows agree under no policy; using products of %d rows", CANDIDATES[-1].tile)
    return CANDIDATES[-1]


def _is_large(linear: Linear) -> bool:
    return linear.in_features * linear.out_features > _LARGE


def _tested_sizes(policy: RowPolicy, large: bool, all_threads: bool) -> list[int]:
    """All sizes, descending; of a large linear some; with one thread, which is unlikely to differ, the ends."""
    sizes = (*policy.wide, *reversed(policy.sizes))
    if not all_threads:
        return [sizes[0], sizes[-1]]
    return [size for size in sizes if not large or size in (policy.sizes[0], 4, 16, policy.tile)]


def _rows_agree(
    linear: Linear,
    adds: bool,
    policy: RowPolicy,
    dtype: torch.dtype,
    set_threads: Callable[[int], None],
    threads: int,
) -> bool:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(policy.most, linear.in_features, generator=generator).to(dtype)
    residual = torch.randn(policy.most, linear.out_features, generator=generator).to(dtype)
    large = _is_large(linear)
    expected: torch.Tensor | None = None
    for count in sorted({1, threads}, reverse=True):
        set_threads(count)
        for rows in _tested_sizes(policy, large, count == threads):
            out = linear.add(x[:rows], residual[:rows].clone()) if adds else linear(x[:rows])
            expected = out if expected is None else expected
            if not torch.equal(out, expected[:rows]):
                return False
    return True


def _keep_threads(_: int) -> None:
    """Leaves torch's number of threads as it is."""
