"""What is done row by row: norms, rotary embedding with the write into the KV pool, embedding.

Invariant: a row's numbers depend on that row alone.

A layer's KV pool is flat: keys [kv_heads, slots / LANES, head_dim, LANES], those of LANES slots side by side as
`tiles.make_product` reads them, then values [kv_heads, slots, head_dim].
"""

from __future__ import annotations

import math

import numpy as np

from ops.compiled import simd
from ops.compiled.jit import inner
from ops.compiled.products import AFRESH, LANES


@inner
def _norm_row(x, at, hidden, weight, weight_at, eps, out, out_at):
    mean = simd.sum_of_squares(x, at, hidden) / np.float32(hidden)
    factor = np.float32(1.0) / np.float32(math.sqrt(mean + eps))
    simd.scale_by(x, at, factor, weight, weight_at, out, out_at, hidden)


@inner
def rms_norm(begin, end, x, hidden, weight, weight_at, eps, out):
    """out[rows begin..end, hidden] = x / rms(x) * weight. hidden: a multiple of LANES; eps: float32."""
    for row in range(begin, end):
        _norm_row(x, row * hidden, hidden, weight, weight_at, eps, out, row * hidden)


@inner
def _norm_head(x, at, dim, weight, weight_at, eps):
    if dim % LANES == 0:
        _norm_row(x, at, dim, weight, weight_at, eps, x, at)
        return
    total = np.float32(0.0)
    for i in range(dim):
        total += x[at + i] * x[at + i]
    factor = np.float32(1.0) / np.float32(math.sqrt(total / np.float32(dim) + eps))
    for i in range(dim):
        x[at + i] = x[at + i] * factor * weight[weight_at + i]


@inner
def _rotate(x, at, half, cos, sin, turn):
    """Elements i and i + half turn together, in place."""
    if half % LANES == 0:
        simd.rotate(x, at, half, cos, sin, turn)
        return
    for i in range(half):
        low, high = x[at + i], x[at + half + i]
        x[at + i] = low * cos[turn + i] - high * sin[turn + i]
        x[at + half + i] = high * cos[turn + i] + low * sin[turn + i]


@inner
def _write_row(
    qkv, stride, row, rows, shape, scale, cos, sin, position, slot, slots, qk_norm, norm_at, eps, q, kv, kv_at
):
    heads, kv_heads, dim, padded = shape
    group, half = heads // kv_heads, dim // 2
    begin = row * stride
    turn = position * half
    at = begin
    for head in range(kv_heads):
        target = (head * rows + row) * group * padded
        for _ in range(group):
            if norm_at >= 0:
                _norm_head(qkv, at, dim, qk_norm, norm_at, eps)
            _rotate(qkv, at, half, cos, sin, turn)
            simd.add_scaled(qkv, at, scale, q, target, padded, AFRESH)
            at, target = at + padded, target + padded
    for head in range(kv_heads):
        at = begin + (heads + head) * padded
        if norm_at >= 0:
            _norm_head(qkv, at, dim, qk_norm, norm_at + dim, eps)
        _rotate(qkv, at, half, cos, sin, turn)
        target = kv_at + (head * slots + slot // LANES * LANES) * padded + slot % LANES
        for i in range(padded):
            kv[target + i * LANES] = qkv[at + i]
        at += kv_heads * padded
        target = kv_at + ((kv_heads + head) * slots + slot) * padded
        simd.widen(qkv, at, kv, target, padded)


@inner
def rope_and_write_kv(
    begin, end, qkv, stride, rows, shape, scale, cos, sin, table, positions_at, slots_at, slots, qk_norm, norm_at,
    eps, q, kv, kv_at,
):  # fmt: skip
    """Rows begin..end: rotate queries and keys of qkv [heads + 2 x kv_heads, padded], rows `stride` apart, in
    place; queries, times `scale`, go to q [kv_heads, rows, group, padded], keys and values to their slots of the
    layer's pool at kv_at.

    shape: (heads, kv_heads, head_dim, padded head_dim). cos, sin: [positions, head_dim / 2]. table: the step's
    numbers, among them the rows' positions and slots. norm_at: of the weights [head_dim] of a norm of each query's
    head, those of keys follow; -1: none.
    """
    for row in range(begin, end):
        _write_row(
            qkv, stride, row, rows, shape, scale, cos, sin, table[positions_at + row], table[slots_at + row], slots,
            qk_norm, norm_at, eps, q, kv, kv_at,
        )  # fmt: skip


@inner
def embed(begin, end, table, ids_at, hidden, weights, out):
    """out[rows begin..end, hidden] = weights[ids] as float32."""
    for row in range(begin, end):
        simd.widen(weights, table[ids_at + row] * hidden, out, row * hidden, hidden)
