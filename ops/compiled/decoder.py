"""A step of a decoder as one compiled call: every layer, and the logits of the rows that are asked for.

Responsible for the order of things; what they are is in `products`, `rows` and `attention`. Python and torch have
no part between the first layer and the last, so a step costs its arithmetic and a few us for each of the parallel
loops (five a layer).

`clock` gets the CPU's time stamp at the end of each part (`PARTS`) added up over the layers: what the bench's
roofline reads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ops.compiled import simd
from ops.compiled.attention import attend, merge
from ops.compiled.jit import entry, inner
from ops.compiled.products import AFRESH, ONTO, PANEL, ZERO, fill_rows, gated_linear, linear
from ops.compiled.rows import embed, rms_norm, rope_and_write_kv

Ints = npt.NDArray[np.int64]
Ints32 = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

PARTS = ("embed", "norm", "qkv", "rope+kv", "attention", "output", "gate_up", "down", "head")

(_EMBED, _NORM, _QKV, _ROPE, _ATTENTION, _OUTPUT, _GATE_UP, _DOWN, _HEAD) = range(len(PARTS))


class Model(NamedTuple):
    """Sizes and weights. Offsets are in elements of the array that they are of.

    heads: (heads, kv_heads, head_dim, head_dim padded to LANES). weights: all panels, float32, or bfloat16 as
    uint16. layers: int64 [layers, len(LAYER_FIELDS)]. vectors: norms' weights and biases, float32. table: the
    embedding. scale: of queries, log2(e) among it.
    """

    hidden: int
    ffn: int
    vocab: int
    heads: tuple[int, int, int, int]
    eps: np.float32
    scale: np.float32
    gelu: bool
    weights: npt.NDArray[np.uint16] | Floats
    layers: Ints
    vectors: Floats
    norm: int
    head: int
    table: npt.NDArray[np.uint16] | Floats
    cos: Floats
    sin: Floats


LAYER_FIELDS = (
    "input_norm", "qkv", "qkv_bias", "qk_norm", "output", "output_bias", "post_norm", "gate", "up", "gate_up_bias",
    "down", "down_bias", "window",
)  # fmt: skip
"""Where a layer's weights and vectors begin; -1: it has none. window: 0: it sees all."""


class Step(NamedTuple):
    """What a step computes: `engine.batch.AttentionPlan` and `engine.runner.batch.StepInputs` as arrays."""

    ids: Ints
    positions: Ints
    slots: Ints
    tiles: Ints32
    pages: Ints32
    merge_offsets: Ints32
    merge_parts: Ints32


class Pool(NamedTuple):
    """KV memory, flat [layers, 2 x kv_heads, slots, padded head_dim]; each layer's laid out as `rows` says."""

    kv: Floats
    slots: int
    block_size: int


class Scratch(NamedTuple):
    """What a step overwrites. x, h: [rows, hidden]; h also [rows, heads x dim]. wide: [rows, the widest product].
    q: [rows, heads x dim]. partial, stats: of attention. threads: [threads, ...]."""

    x: Floats
    h: Floats
    wide: Floats
    q: Floats
    partial: Floats
    stats: Floats
    threads: npt.NDArray[np.float32]
    clock: Ints


@inner
def _tick(clock, part, since):
    now = simd.cycles()
    clock[part] += now - since
    return now


@inner
def _write(model, layer, step, pool, scratch, index, now):
    """Norm, projection, rotation: all rows' queries to scratch.q, keys and values to the pool."""
    rows = len(step.ids)
    heads, kv_heads, _, dim = model.heads
    width = (heads + 2 * kv_heads) * dim
    stride = (width + PANEL - 1) // PANEL * PANEL
    rms_norm(scratch.x, rows, model.hidden, model.vectors, layer[0], model.eps, scratch.h)
    now = _tick(scratch.clock, _NORM, now)
    if layer[2] >= 0:
        fill_rows(model.vectors, layer[2], width, scratch.wide, 0, stride, rows)
    linear(scratch.h, model.hidden, rows, model.weights, layer[1], model.hidden, stride // PANEL,
           scratch.wide, stride, layer[2] >= 0, scratch.threads)  # fmt: skip
    now = _tick(scratch.clock, _QKV, now)
    rope_and_write_kv(scratch.wide, stride, rows, model.heads, model.scale, model.cos, model.sin, step.positions,
                      step.slots, pool.slots, model.vectors, layer[3], model.eps, scratch.q, pool.kv,
                      index * 2 * kv_heads * pool.slots * dim)  # fmt: skip
    return _tick(scratch.clock, _ROPE, now)


@inner
def _finish(model, layer, step, rows, pool, scratch, index, now):
    """Attention, its projection and the MLP, of the rows of scratch.q."""
    heads, kv_heads, _, dim = model.heads
    parts = ZERO
    for tile in range(len(step.tiles)):
        parts = max(parts, step.tiles[tile, 5] + step.tiles[tile, 1] - step.tiles[tile, 0])
    attend(step.tiles, step.pages, step.positions, model.heads, pool.block_size, layer[12], scratch.q, rows,
           pool.kv, index * 2 * kv_heads * pool.slots * dim, pool.slots, scratch.partial, scratch.stats, parts,
           scratch.threads)  # fmt: skip
    merge(
        rows, step.merge_offsets, step.merge_parts, model.heads, scratch.partial, scratch.stats, parts,
        scratch.h,
    )  # fmt: skip
    now = _tick(scratch.clock, _ATTENTION, now)
    if layer[5] >= 0:
        add_rows(model.vectors, layer[5], model.hidden, scratch.x, rows)
    linear(scratch.h, heads * dim, rows, model.weights, layer[4], heads * dim, model.hidden // PANEL,
           scratch.x, model.hidden, ONTO, scratch.threads)  # fmt: skip
    now = _tick(scratch.clock, _OUTPUT, now)
    rms_norm(scratch.x, rows, model.hidden, model.vectors, layer[6], model.eps, scratch.h)
    now = _tick(scratch.clock, _NORM, now)
    gated_linear(scratch.h, model.hidden, rows, model.weights, layer[7], layer[8], model.hidden, model.ffn // PANEL,
                 model.vectors, layer[9], model.gelu, scratch.wide, model.ffn, scratch.threads)  # fmt: skip
    now = _tick(scratch.clock, _GATE_UP, now)
    if layer[11] >= 0:
        add_rows(model.vectors, layer[11], model.hidden, scratch.x, rows)
    linear(scratch.wide, model.ffn, rows, model.weights, layer[10], model.ffn, model.hidden // PANEL,
           scratch.x, model.hidden, ONTO, scratch.threads)  # fmt: skip
    return _tick(scratch.clock, _DOWN, now)


@inner
def _keep_rows(model, wanted, rows, scratch):
    """Of x and q only the wanted rows, ascending, stay: at the front."""
    heads, kv_heads, _, dim = model.heads
    width, count = heads // kv_heads * dim, len(wanted)
    for index in range(count):
        simd.widen(scratch.x, wanted[index] * model.hidden, scratch.x, index * model.hidden, model.hidden)
    for head in range(kv_heads):
        for index in range(count):
            source, target = (head * rows + wanted[index]) * width, (head * count + index) * width
            simd.widen(scratch.q, source, scratch.q, target, width)


@entry
def forward(model, step, last, leaves_out, pool, scratch, wanted, logits):
    """Computes all rows of a step; logits of rows `wanted`: [len(wanted), vocab padded to PANEL].

    last: the step of the wanted rows alone, for the last layer, where that leaves out the others.
    """
    now = simd.cycles()
    rows, hidden = len(step.ids), model.hidden
    embed(step.ids, rows, hidden, model.table, scratch.x)
    now = _tick(scratch.clock, _EMBED, now)
    final = len(model.layers) - 1
    for index in range(final):
        now = _write(model, model.layers[index], step, pool, scratch, index, now)
        now = _finish(model, model.layers[index], step, rows, pool, scratch, index, now)
    now = _write(model, model.layers[final], step, pool, scratch, final, now)
    if len(wanted) == 0:
        return
    if leaves_out:
        _keep_rows(model, wanted, rows, scratch)
        now = _finish(model, model.layers[final], last, len(wanted), pool, scratch, final, now)
        source = scratch.x
    else:
        now = _finish(model, model.layers[final], step, rows, pool, scratch, final, now)
        source = scratch.wide
        for index in range(len(wanted)):
            simd.widen(scratch.x, wanted[index] * hidden, source, index * hidden, hidden)
    rms_norm(source, len(wanted), hidden, model.vectors, model.norm, model.eps, scratch.h)
    now = _tick(scratch.clock, _NORM, now)
    panels = (model.vocab + PANEL - 1) // PANEL
    linear(scratch.h, hidden, len(wanted), model.weights, model.head, hidden, panels,
           logits, panels * PANEL, AFRESH, scratch.threads)  # fmt: skip
    _tick(scratch.clock, _HEAD, now)


@inner
def add_rows(source, source_at, count, out, rows):
    """Add the same `count` numbers to every row of out."""
    for row in range(rows):
        for i in range(count):
            out[row * count + i] += source[source_at + i]
