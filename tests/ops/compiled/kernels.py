"""Kernels that only compiled functions call, with a door for Python. Compiled once and kept, as a server's are."""

from __future__ import annotations

from typing import Any

from ops.compiled import attention, products, simd
from ops.compiled.jit import entry
from ops.compiled.products import ZERO

Array = Any


@entry  # type: ignore[untyped-decorator]
def multiply(x: Array, rows: int, w: Array, depth: int, out: Array, onto: bool, scratch: Array) -> None:
    """out [rows, PANEL] (+)= x [rows, depth] @ w, a panel."""
    products.multiply_panel(
        x, ZERO, depth, rows, w, ZERO, depth, out, ZERO, products.PANEL, onto, scratch, ZERO
    )


@entry  # type: ignore[untyped-decorator]
def activate(x: Array, ones: Array, powers: Array, silu: Array, gelu: Array) -> None:
    """2^x, silu(x) and gelu(x), of whole vectors."""
    for i in range(len(x)):
        powers[i] = simd.exp2(x[i])
    simd.silu_and_mul(x, ZERO, ones, ZERO, silu, ZERO, len(x))
    simd.gelu_tanh_and_mul(x, ZERO, ones, ZERO, gelu, ZERO, len(x))


@entry  # type: ignore[untyped-decorator]
def attend(
    table: Array, places: Array, shape: Any, block_size: int, window: int, q: Array, kv: Array, slots: int,
    partial: Array, stats: Array, scratch: Array, out: Array,
) -> None:  # fmt: skip
    """All tiles, and their merge. places: rows, tiles, partial results; where in the table the tiles, pages,
    positions, offsets and parts begin."""
    rows, tiles, parts = places[0], places[1], places[2]
    for item in range(shape[1] * tiles):
        attention.attend(
            item, table, places[3], tiles, places[4], places[5], shape, block_size, window, q, rows, kv, ZERO,
            slots, partial, stats, parts, scratch,
        )  # fmt: skip
    attention.merge(0, rows, table, places[6], places[7], shape, partial, stats, parts, out)
