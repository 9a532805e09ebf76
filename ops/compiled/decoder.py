"""A step of a decoder as one compiled call: every layer, and the logits of the rows that are asked for.

Responsible for the order of things: a step's phases, and what an item of each is (`_run`). What they compute is in
`products`, `rows` and `attention`; who computes what, in `crew`. Python and torch have no part between the first
layer and the last.

`clock` gets the CPU's time stamp at the end of each part (`PARTS`), added up over the layers: what the bench's
roofline reads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ops.compiled import attention, products, rows, simd
from ops.compiled.crew import ARGUMENTS, DONE, OPEN, add, claim, cycles, look, pause, publish, put, wait
from ops.compiled.jit import entry, inner
from ops.compiled.products import PANEL, ZERO

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

PARTS = ("embed", "norm", "qkv", "rope+kv", "attention", "output", "gate_up", "down", "head")
_PART = np.array([0, 1, 2, 3, 4, 4, 5, 1, 6, 7, 1, 8])
"""Of each kind of phase."""

(_EMBED, _INPUT_NORM, _QKV, _ROPE, _ATTEND, _MERGE, _OUTPUT, _POST_NORM, _GATE_UP, _DOWN, _NORM, _HEAD) = (
    range(12)
)
"""Kinds of phases."""

_KIND, _LAYER, _ROWS, _STEP = range(ARGUMENTS, ARGUMENTS + 4)
"""Places of a phase's arguments on the board; behind _STEP come those of a `Step`."""

ROWS = 16
"""Of an item, where work goes by rows: as many as share a cache line of keys."""

MERGED = 4
"""Rows of an item of merges, which cost more."""


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
    """Where in the step's table, int64, the arrays lie of `engine.batch.AttentionPlan` and of
    `engine.runner.batch.StepInputs`. parts: number of partial results.
    """

    ids: int
    positions: int
    slots: int
    tiles: int
    num_tiles: int
    pages: int
    merge_offsets: int
    merge_parts: int
    parts: int


(_IDS, _POSITIONS, _SLOTS, _TILES, _NUM_TILES, _PAGES, _OFFSETS, _PARTS_OF, _PARTS) = range(_STEP, _STEP + 9)


class Pool(NamedTuple):
    """KV memory, flat [layers, 2 x kv_heads, slots, padded head_dim]; each layer's laid out as `rows` says."""

    kv: Floats
    slots: int
    block_size: int


class Scratch(NamedTuple):
    """What a step overwrites. x, h: [rows, hidden]; h also [rows, heads x dim]. wide: [rows, the widest product].
    q: [rows, heads x dim]. partial, stats: of attention. logits: [logit rows, vocab padded to PANEL]. own: of each
    thread. table: the step's numbers. board: of `crew`.
    """

    x: Floats
    h: Floats
    wide: Floats
    q: Floats
    partial: Floats
    stats: Floats
    logits: Floats
    own: Floats
    table: Ints
    board: Ints
    clock: Ints


@inner
def _num_items(kind, num_rows, model, board):
    heads, kv_heads, _, dim = model.heads
    if kind == _QKV:
        return products.num_items(num_rows, _panels((heads + 2 * kv_heads) * dim))
    if kind == _ATTEND:
        return kv_heads * board[_NUM_TILES]
    if kind in (_OUTPUT, _DOWN):
        return products.num_items(num_rows, model.hidden // PANEL)
    if kind == _GATE_UP:
        return products.num_items(num_rows, model.ffn // PANEL)
    if kind == _HEAD:
        return products.num_items(num_rows, _panels(model.vocab))
    size = _rows_of_item(kind)
    return (num_rows + size - 1) // size


@inner
def _rows_of_item(kind):
    return MERGED if kind == _MERGE else ROWS


@inner
def _panels(width):
    return (width + PANEL - 1) // PANEL


@inner
def _run(item, model, pool, scratch, thread):
    """An item of the phase on the board."""
    board, own = scratch.board, scratch.own[thread]
    kind, num_rows, layer = board[_KIND], board[_ROWS], model.layers[board[_LAYER]]
    heads, kv_heads, _, dim = model.heads
    size = _rows_of_item(kind)
    begin, end = item * size, min((item + 1) * size, num_rows)
    kv_at = board[_LAYER] * 2 * kv_heads * pool.slots * dim
    if kind == _EMBED:
        rows.embed(begin, end, scratch.table, board[_IDS], model.hidden, model.table, scratch.x)
    elif kind in (_INPUT_NORM, _POST_NORM, _NORM):
        at = model.norm if kind == _NORM else layer[0] if kind == _INPUT_NORM else layer[6]
        rows.rms_norm(begin, end, scratch.x, model.hidden, model.vectors, at, model.eps, scratch.h)
    elif kind == _ROPE:
        rows.rope_and_write_kv(
            begin, end, scratch.wide, _panels((heads + 2 * kv_heads) * dim) * PANEL, num_rows, model.heads,
            model.scale, model.cos, model.sin, scratch.table, board[_POSITIONS], board[_SLOTS], pool.slots,
            model.vectors, layer[3], model.eps, scratch.q, pool.kv, kv_at,
        )  # fmt: skip
    elif kind == _ATTEND:
        attention.attend(
            item, scratch.table, board[_TILES], board[_NUM_TILES], board[_PAGES], board[_POSITIONS], model.heads,
            pool.block_size, layer[12], scratch.q, num_rows, pool.kv, kv_at, pool.slots, scratch.partial,
            scratch.stats, board[_PARTS], own,
        )  # fmt: skip
    elif kind == _MERGE:
        attention.merge(
            begin, end, scratch.table, board[_OFFSETS], board[_PARTS_OF], model.heads, scratch.partial,
            scratch.stats, board[_PARTS], scratch.h,
        )  # fmt: skip
    elif kind == _GATE_UP:
        products.gated_linear(
            item, scratch.h, model.hidden, num_rows, model.weights, layer[7], layer[8], model.hidden,
            model.ffn // PANEL, model.vectors, layer[9], model.gelu, scratch.wide, model.ffn, own,
        )  # fmt: skip
    else:
        _run_linear(item, kind, num_rows, layer, model, scratch, own)


@inner
def _run_linear(item, kind, num_rows, layer, model, scratch, own):
    heads, kv_heads, _, dim = model.heads
    x, depth, out, onto, bias = scratch.h, model.hidden, scratch.x, True, layer[5]
    w, panels = layer[4], model.hidden // PANEL
    if kind == _OUTPUT:
        depth = heads * dim
    elif kind == _DOWN:
        x, depth, w, bias = scratch.wide, model.ffn, layer[10], layer[11]
    elif kind == _QKV:
        out, onto, w, bias = scratch.wide, False, layer[1], layer[2]
        panels = _panels((heads + 2 * kv_heads) * dim)
    else:
        out, onto, w, bias, panels = scratch.logits, False, model.head, -1, _panels(model.vocab)
    products.linear(
        item, x, depth, num_rows, model.weights, w, depth, panels, model.vectors, bias, out, panels * PANEL, onto,
        own,
    )  # fmt: skip


@inner
def _do(kind, layer, num_rows, model, pool, scratch, now):
    """A phase, from its publication until all of it is done."""
    board = scratch.board
    board[_KIND], board[_LAYER], board[_ROWS] = kind, layer, num_rows
    items = _num_items(kind, num_rows, model, board)
    alone = items == 1
    if not alone:
        publish(board, items)
    item, left = ZERO if alone else claim(board), items
    while item >= 0:
        _run(item, model, pool, scratch, ZERO)
        left -= 1
        item = -1 if alone else claim(board)
    if not alone:
        wait(board, left)
    after = cycles()
    scratch.clock[_PART[kind]] += after - now
    return after


@inner
def _lay_out(step, board):
    for field in range(len(step)):
        board[_STEP + field] = step[field]


@inner
def _keep_rows(model, wanted, num_rows, scratch):
    """Of x and q only the wanted rows, ascending, stay: at the front."""
    heads, kv_heads, _, dim = model.heads
    width, count = heads // kv_heads * dim, len(wanted)
    for head in range(kv_heads):
        for index in range(count):
            source, target = (head * num_rows + wanted[index]) * width, (head * count + index) * width
            simd.widen(scratch.q, source, scratch.q, target, width)
    _gather(model, wanted, scratch.x, scratch.x)


@inner
def _gather(model, wanted, source, out):
    for index in range(len(wanted)):
        simd.widen(source, wanted[index] * model.hidden, out, index * model.hidden, model.hidden)


@inner
def _drive(model, step, last, leaves_out, num_rows, wanted, pool, scratch):
    put(scratch.board, OPEN, 1)
    _lay_out(step, scratch.board)
    layers, now = len(model.layers), cycles()
    for turn in range(layers * _DOWN + 3):
        kind, layer = _phase(turn, layers)
        if kind == _ATTEND and layer == layers - 1:
            if len(wanted) == 0:
                break
            if leaves_out:
                _keep_rows(model, wanted, num_rows, scratch)
                _lay_out(last, scratch.board)
                num_rows = len(wanted)
        if kind == _NORM and not leaves_out:
            _gather(model, wanted, scratch.x, scratch.wide)
            simd.widen(scratch.wide, 0, scratch.x, 0, len(wanted) * model.hidden)
            num_rows = len(wanted)
        now = _do(kind, layer, num_rows, model, pool, scratch, now)
    put(scratch.board, OPEN, 0)


@inner
def _phase(turn, layers):
    """(kind, layer) of a step's phases in their order; each call of `_do` would be compiled by itself."""
    if turn == 0:
        return _EMBED, 0
    if turn > layers * _DOWN:
        return turn - layers * _DOWN - 1 + _NORM, layers - 1
    return (turn - 1) % _DOWN + 1, (turn - 1) // _DOWN


@inner
def _assist(model, pool, scratch, thread):
    """Take items for as long as a step is open."""
    board = scratch.board
    while look(board, OPEN) != 0:
        item = claim(board)
        if item >= 0:
            _run(item, model, pool, scratch, thread)
            add(board, DONE, 1)
        else:
            pause()


@entry
def work(thread, model, step, last, leaves_out, num_rows, wanted, pool, scratch):
    """Thread 0 computes all rows of a step, and scratch.logits of rows `wanted`; the others help with the step that
    is open, if one is, and use the first, the second and the last two arguments only.

    last: the step of the wanted rows alone, for the last layer, where that leaves out the others. (One function for
    both, since loading one from the cache takes a quarter of a second.)
    """
    if thread == 0:
        _drive(model, step, last, leaves_out, num_rows, wanted, pool, scratch)
    else:
        _assist(model, pool, scratch, thread)
