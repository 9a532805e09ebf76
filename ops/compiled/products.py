"""Matrix products over weights cut into panels of PANEL outputs, which threads share.

Responsible for `linear` and `gated_linear`; a panel lies in memory in the order in which it is read, [in, PANEL].
Invariant: an output is one sum in the order of its inputs (`tiles.make_product`), so neither the number of rows nor
of threads changes it. Everything is a flat array; offsets and strides in elements.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ops.compiled import llvm, simd
from ops.compiled.jit import inner
from ops.compiled.tiles import TILE_ROWS, make_product

PANEL = 2 * llvm.LANES

ZERO, LANES, _WIDTH = np.int64(0), np.int64(llvm.LANES), np.int64(PANEL)
AFRESH = np.bool_(False)
"""Constants as numpy's: numba compiles a function anew for every literal that it is called with."""

ROW_BLOCK = 192
"""Rows that a thread takes of a panel at once: they share its widened weights, and the gated products' scratch."""

_WIDEN_FROM = 3 * TILE_ROWS
"""Rows from which on widening bfloat16 weights once costs less than in every tile."""

product2, product1 = make_product(2), make_product(1)


def to_panels(weight_NK: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[out, in] -> flat panels [ceil(out / PANEL), in, PANEL], missing outputs zero."""
    outputs, depth = weight_NK.shape
    padded = np.zeros((-(-outputs // PANEL) * PANEL, depth), weight_NK.dtype)
    padded[:outputs] = weight_NK
    return np.ascontiguousarray(padded.reshape(-1, PANEL, depth).transpose(0, 2, 1)).reshape(-1)


@inner
def multiply_panel(
    x, x_at, x_stride, rows, w, w_at, depth, out, out_at, out_stride, onto, scratch, scratch_at
):
    """A panel; scratch: float32 [depth x PANEL], for widened weights."""
    if w.itemsize == 4 or rows < _WIDEN_FROM:
        product2(x, x_at, x_stride, rows, w, w_at, _WIDTH, LANES, depth, out, out_at, out_stride, onto)
    else:
        simd.widen(w, w_at, scratch, scratch_at, depth * PANEL)
        product2(
            x, x_at, x_stride, rows, scratch, scratch_at, _WIDTH, LANES, depth, out, out_at, out_stride, onto
        )


@inner
def num_items(rows, panels):
    """Of a product: a panel and at most ROW_BLOCK rows each."""
    return panels * ((rows + ROW_BLOCK - 1) // ROW_BLOCK)


@inner
def linear(item, x, x_stride, rows, w, w_at, depth, panels, bias, bias_at, out, out_stride, onto, scratch):
    """An item of out[rows, panels x PANEL] (+)= x[rows, depth] @ w + bias. bias_at: -1: none.

    scratch: >= depth x PANEL.
    """
    begin, panel = item // panels * ROW_BLOCK, item % panels
    count, place = min(ROW_BLOCK, rows - begin), begin * out_stride + panel * PANEL
    if bias_at >= 0:
        for row in range(count):
            one = np.float32(1.0)
            simd.add_scaled(bias, bias_at + panel * PANEL, one, out, place + row * out_stride, PANEL, onto)
    multiply_panel(
        x, begin * x_stride, x_stride, count, w, w_at + panel * depth * PANEL, depth,
        out, place, out_stride, onto or bias_at >= 0, scratch, ZERO,
    )  # fmt: skip


@inner
def gated_linear(
    item, x, x_stride, rows, w, gate_at, up_at, depth, panels, bias, bias_at, gelu, out, out_stride, scratch
):
    """An item of out = act(x @ gate + bias) * (x @ up + bias).

    bias_at: of the gate's, the up's follow; -1: none. scratch: >= depth x PANEL + 2 x ROW_BLOCK x PANEL.
    """
    begin, panel = item // panels * ROW_BLOCK, item % panels
    count = min(ROW_BLOCK, rows - begin)
    gate, up = depth * PANEL, depth * PANEL + ROW_BLOCK * PANEL
    has_bias = bias_at >= 0
    if has_bias:
        for row in range(count):
            simd.widen(bias, bias_at + panel * PANEL, scratch, gate + row * PANEL, PANEL)
            simd.widen(bias, bias_at + (panels + panel) * PANEL, scratch, up + row * PANEL, PANEL)
    for part in range(2):
        multiply_panel(
            x, begin * x_stride, x_stride, count, w, (up_at if part else gate_at) + panel * depth * PANEL, depth,
            scratch, up if part else gate, _WIDTH, has_bias, scratch, ZERO,
        )  # fmt: skip
    for row in range(count):
        place = (begin + row) * out_stride + panel * PANEL
        if gelu:
            simd.gelu_tanh_and_mul(scratch, gate + row * PANEL, scratch, up + row * PANEL, out, place, PANEL)
        else:
            simd.silu_and_mul(scratch, gate + row * PANEL, scratch, up + row * PANEL, out, place, PANEL)
