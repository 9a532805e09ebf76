"""Matrix products by tiles of outputs that stay in registers: what linears and attention are made of.

Invariant (batch invariance): each output is one sum over its depth, a fused multiply-add after the other, whatever
tile it is part of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ops.compiled.llvm import (
    I64,
    LANES,
    VEC,
    Builder,
    Value,
    call,
    constant,
    data,
    function,
    i64,
    load,
    loop,
    splat,
    store,
)

WIDE = llvmlite.binding.get_host_cpu_features().get("avx512f", False)

TILE_HEIGHTS = (12, 4, 2, 1) if WIDE else (6, 4, 2, 1)
"""Rows of a register tile: with two vectors a row the largest fills the registers."""

TILE_ROWS = TILE_HEIGHTS[0]


def make_product(vectors: int) -> Any:
    """out[r, v] (+)= sum over k of x[r, k] * w[k, v], for `vectors` vectors of outputs; called as

        product(x, x_at, x_stride, rows, w, w_at, w_step, w_next, depth, out, out_at, out_stride, onto)

    x: float32, rows `x_stride` apart. w: float32, or bfloat16 as uint16; step k of vector v begins at w_at +
    k * w_step + v * w_next. out: rows `out_stride` apart, vectors beside each other. onto: sums begin with what is
    there. depth: at least 1. Rows go by tiles that stay in registers while k runs.
    """

    @intrinsic
    def product(
        typing: Any, x: Any, x_at: Any, x_stride: Any, rows: Any, w: Any, w_at: Any, w_step: Any, w_next: Any,
        depth: Any, out: Any, out_at: Any, out_stride: Any, onto: Any,
    ) -> Any:  # fmt: skip
        offsets = [types.intp] * 4
        signature = types.void(x, *offsets[:3], w, *offsets[:4], out, types.intp, types.intp, types.boolean)

        def generate(context: Any, b: Builder, signature: Any, args: tuple[Value, ...]) -> Value:
            values = [
                data(context, b, kind, arg) if isinstance(kind, types.Array) else arg
                for kind, arg in zip(signature.args, args, strict=True)
            ]
            values[-1] = cgutils.as_bool_bit(b, args[-1])
            b.call(function(b.module, f"parrot.product.{vectors}", values, _rows_body(vectors)), values)
            return context.get_dummy_value()

        return signature, generate

    return product


def _rows_body(vectors: int) -> Callable[[Builder, list[Value]], None]:
    def build(b: Builder, args: list[Value]) -> None:
        x, x_at, x_stride, rows, w, w_at, w_step, w_next, depth, out, out_at, out_stride, onto = args
        row = i64(0)
        for height in TILE_HEIGHTS:
            entry = b.block
            check, body, done = (
                b.append_basic_block(f"{name}{height}") for name in ("check", "body", "done")
            )
            b.branch(check)
            b.position_at_end(check)
            at = b.phi(I64)
            at.add_incoming(row, entry)
            following = b.add(at, i64(height))
            b.cbranch(b.icmp_signed("<=", following, rows), body, done)
            b.position_at_end(body)
            tile = [
                x, b.add(x_at, b.mul(at, x_stride)), x_stride, w, w_at, w_step, w_next, depth,
                out, b.add(out_at, b.mul(at, out_stride)), out_stride, onto,
            ]  # fmt: skip
            b.call(
                function(b.module, f"parrot.tile.{height}x{vectors}", tile, _tile_body(height, vectors)),
                tile,
            )
            at.add_incoming(following, b.block)
            b.branch(check)
            b.position_at_end(done)
            row = at

    return build


def _tile_body(rows: int, vectors: int) -> Callable[[Builder, list[Value]], None]:
    def build(b: Builder, args: list[Value]) -> None:
        x, x_at, x_stride, w, w_at, w_step, w_next, depth, out, out_at, out_stride, onto = args
        x_rows = [b.gep(x, [b.add(x_at, b.mul(x_stride, i64(r)))]) for r in range(rows)]
        w_vectors = [b.gep(w, [b.add(w_at, b.mul(w_next, i64(v)))]) for v in range(vectors)]
        places = [
            b.add(out_at, b.add(b.mul(out_stride, i64(r)), i64(LANES * v)))
            for r in range(rows)
            for v in range(vectors)
        ]

        def step(k: Value, sums: list[Value]) -> list[Value]:
            at = b.mul(k, w_step)
            loaded = [load(b, base, at) for base in w_vectors]
            inputs = [splat(b, b.load(b.gep(row, [k]))) for row in x_rows]
            return [
                call(b, "fma", inputs[i // vectors], loaded[i % vectors], total)
                for i, total in enumerate(sums)
            ]

        for vector, place in zip(
            loop(b, depth, 1, _initial(b, out, places, onto), step), places, strict=True
        ):
            store(b, vector, out, place)

    return build


def _initial(b: Builder, out: Value, places: list[Value], onto: Value) -> list[Value]:
    """Zeros, or what stands at `places`."""
    entry = b.block
    loading, begin = b.append_basic_block("onto"), b.append_basic_block("begin")
    b.cbranch(onto, loading, begin)
    b.position_at_end(loading)
    present = [load(b, out, place) for place in places]
    b.branch(begin)
    b.position_at_end(begin)
    phis = []
    for vector in present:
        phi = b.phi(VEC)
        phi.add_incoming(constant(0.0), entry)
        phi.add_incoming(vector, loading)
        phis.append(phi)
    return phis
