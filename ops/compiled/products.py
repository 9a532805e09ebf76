"""Matrix products over weights cut into panels of PANEL outputs, which threads share.

Responsible for `linear` and `gated_linear`; a panel lies in memory in the order in which it is read, [in, PANEL].
Invariant: an output is one sum in the order of its inputs (`tiles.make_product`), so neither the number of rows nor
of threads changes it. Everything is a flat array; offsets and strides in elements.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import get_thread_id, prange

from ops.compiled import llvm, simd
from ops.compiled.jit import inner, shared
from ops.compiled.tiles import TILE_ROWS, make_product

PANEL = 2 * llvm.LANES

ZERO, LANES, _WIDTH = np.int64(0), np.int64(llvm.LANES), np.int64(PANEL)
AFRESH, ONTO = np.bool_(False), np.bool_(True)
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


@shared
def linear(x, x_stride, rows, w, w_at, depth, panels, out, out_stride, onto, scratch):
    """out[rows, panels x PANEL] (+)= x[rows, depth] @ w. scratch: [threads, >= depth x PANEL]."""
    blocks = (rows + ROW_BLOCK - 1) // ROW_BLOCK
    for index in prange(panels * blocks):
        item = np.int64(index)  # prange counts unsigned, which mixes badly
        block, panel = item // panels, item % panels
        begin = block * ROW_BLOCK
        multiply_panel(
            x, begin * x_stride, x_stride, min(ROW_BLOCK, rows - begin), w, w_at + panel * depth * PANEL, depth,
            out, begin * out_stride + panel * PANEL, out_stride, onto,
            scratch[get_thread_id()], ZERO,
        )  # fmt: skip


@shared
def gated_linear(
    x, x_stride, rows, w, gate_at, up_at, depth, panels, bias, bias_at, gelu, out, out_stride, scratch
):
    """out = act(x @ gate + bias) * (x @ up + bias). bias_at: of the gate's, the up's follow; -1: none.

    scratch: [threads, >= depth x PANEL + 2 x ROW_BLOCK x PANEL].
    """
    blocks = (rows + ROW_BLOCK - 1) // ROW_BLOCK
    for index in prange(panels * blocks):
        item = np.int64(index)  # prange counts unsigned, which mixes badly
        block, panel = item // panels, item % panels
        begin = block * ROW_BLOCK
        count = min(ROW_BLOCK, rows - begin)
        own = scratch[get_thread_id()]
        gate, up = depth * PANEL, depth * PANEL + ROW_BLOCK * PANEL
        has_bias = bias_at >= 0
        if has_bias:
            fill_rows(bias, bias_at + panel * PANEL, PANEL, own, gate, PANEL, count)
            fill_rows(bias, bias_at + (panels + panel) * PANEL, PANEL, own, up, PANEL, count)
        multiply_panel(
            x, begin * x_stride, x_stride, count, w, gate_at + panel * depth * PANEL, depth, own, gate,
            _WIDTH, has_bias, own, ZERO,
        )  # fmt: skip
        multiply_panel(
            x, begin * x_stride, x_stride, count, w, up_at + panel * depth * PANEL, depth, own, up, _WIDTH,
            has_bias, own, ZERO,
        )  # fmt: skip
        for row in range(count):
            place = (begin + row) * out_stride + panel * PANEL
            if gelu:
                simd.gelu_tanh_and_mul(own, gate + row * PANEL, own, up + row * PANEL, out, place, PANEL)
            else:
                simd.silu_and_mul(own, gate + row * PANEL, own, up + row * PANEL, out, place, PANEL)


@inner
def fill_rows(source, source_at, count, out, out_at, out_stride, rows):
    """Every row of out = the same `count` numbers, a multiple of LANES."""
    for row in range(rows):
        simd.widen(source, source_at, out, out_at + row * out_stride, count)
