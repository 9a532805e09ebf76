"""Paged attention over the tiles of an `engine.batch.AttentionPlan`: partial results, and their merge.

A tile is rows that read one chunk of at most CHUNK keys; its partial result of a row is the row's unnormalised sum,
the largest of its scores and the sum of its weights. A row's result is the fold of its partial results in ascending
order of chunks. Invariant (batch invariance): a partial result depends on the row's query and the keys that it
sees. What else is in the tile only adds masked scores to it, which weigh exactly 0.

Scores are powers of two: queries come multiplied by scale x log2(e). Layouts: `ops.compiled.rows` for the pool;
queries and partial results have the kv head first, [kv_heads, rows, group, dim], so that what reads the same keys
is one matrix.
"""

from __future__ import annotations

import numpy as np

from ops.compiled import llvm, simd
from ops.compiled.jit import inner
from ops.compiled.products import AFRESH, LANES, ZERO, product1, product2
from ops.compiled.tiles import TILE_ROWS

CHUNK = 256

QUERIES = 4 * TILE_ROWS
"""Query rows that share what is loaded of keys and values."""

_STRIDE = np.int64(CHUNK + llvm.LANES)
"""Between rows of scores: not a power of two, or they would meet in few places of the cache."""

SCRATCH = QUERIES * (CHUNK + llvm.LANES)
"""Numbers that a thread needs for up to QUERIES query rows."""

_NOTHING = np.float32(-np.inf)


@inner
def _scores(q, q_at, count, dim, kv, keys_at, table, page, block_size, keys, out):
    """out[count, ...] = queries x the first `keys` keys of the pages from `page` on, whole groups of LANES."""
    for begin in range(0, keys, block_size):
        at, count_here = keys_at + table[page] * block_size * dim, min(block_size, keys - begin)
        page += 1
        for key in range(0, count_here, 2 * LANES):
            if key + LANES < count_here:
                product2(
                    q, q_at, dim, count, kv, at + key * dim, LANES, LANES * dim, dim, out, begin + key,
                    _STRIDE, AFRESH,
                )  # fmt: skip
            else:
                product1(
                    q,
                    q_at,
                    dim,
                    count,
                    kv,
                    at + key * dim,
                    LANES,
                    ZERO,
                    dim,
                    out,
                    begin + key,
                    _STRIDE,
                    AFRESH,
                )


@inner
def _weigh(scores, at, first, last, keys):
    """Scores [first, last) of a row become weights 2^(score - largest), all others of `keys` 0; (largest, sum)."""
    padded = (keys + LANES - 1) // LANES * LANES
    for key in range(first):
        scores[at + key] = _NOTHING
    for key in range(last, padded):
        scores[at + key] = _NOTHING
    if first >= last:
        for key in range(padded):
            scores[at + key] = np.float32(0.0)
        return _NOTHING, np.float32(0.0)
    top = simd.largest(scores, at, padded)
    return top, simd.exp2_and_sum(scores, at, padded, top)


@inner
def _values(weights, count, dim, kv, values_at, table, page, block_size, keys, out, out_at):
    """out[count, dim] = weights[count, keys] x values."""
    for begin in range(0, keys, block_size):
        depth, at = min(block_size, keys - begin), values_at + table[page] * block_size * dim
        page += 1
        for column in range(0, dim, 2 * LANES):
            if column + LANES < dim:
                product2(
                    weights, begin, _STRIDE, count, kv, at + column, dim, LANES, depth, out,
                    out_at + column, dim, begin > 0,
                )  # fmt: skip
            else:
                product1(
                    weights, begin, _STRIDE, count, kv, at + column, dim, ZERO, depth, out,
                    out_at + column, dim, begin > 0,
                )  # fmt: skip


@inner
def attend(
    item, table, tiles_at, num_tiles, pages_at, positions_at, shape, block_size, window, q, rows, kv, kv_at, slots,
    out, stats, parts, scratch,
):  # fmt: skip
    """A tile's partial results for one kv head: out [kv_heads, parts, group, dim], stats [kv_heads, parts,
    group, 2].

    table: the step's numbers, among them tiles, pages and positions. window: keys that a row sees, its own among
    them; 0: all. scratch: >= SCRATCH. Items: kv_heads x num_tiles.
    """
    heads, kv_heads, _, _ = shape
    tile = tiles_at + item % num_tiles * 6
    step = max(1, QUERIES // (heads // kv_heads))
    for begin in range(table[tile], table[tile + 1], step):
        _rows(
            begin, min(begin + step, table[tile + 1]), item // num_tiles, table, tile, pages_at, positions_at,
            shape, block_size, window, q, rows, kv, kv_at, slots, out, stats, parts, scratch,
        )  # fmt: skip


@inner
def _rows(
    begin, end, head, table, tile, pages_at, positions_at, shape, block_size, window, q, rows, kv, kv_at, slots,
    out, stats, parts, scores,
):  # fmt: skip
    heads, kv_heads, _, dim = shape
    group = heads // kv_heads
    first_page, end_page, first_key, part = table[tile + 2], table[tile + 3], table[tile + 4], table[tile + 5]
    newest, oldest = table[positions_at + begin], table[positions_at + begin]
    for row in range(begin, end):
        newest, oldest = max(newest, table[positions_at + row]), min(oldest, table[positions_at + row])
    keys, page = min(newest - first_key + 1, (end_page - first_page) * block_size), pages_at + first_page
    keys_at, values_at = kv_at + head * slots * dim, kv_at + (kv_heads + head) * slots * dim
    count, place = (end - begin) * group, (head * parts + part + begin - table[tile]) * group
    if window > 0 and oldest - window + 1 - first_key >= keys:
        for query in range(count):
            stats[2 * (place + query)], stats[2 * (place + query) + 1] = _NOTHING, np.float32(0.0)
        return
    _scores(
        q, (head * rows + begin) * group * dim, count, dim, kv, keys_at, table, page, block_size, keys, scores
    )
    query = 0
    for row in range(begin, end):
        visible = table[positions_at + row] - first_key + 1
        first = max(ZERO, visible - window) if window > 0 else ZERO
        for _ in range(group):
            top, total = _weigh(scores, query * _STRIDE, first, min(visible, keys), keys)
            stats[2 * (place + query)], stats[2 * (place + query) + 1] = top, total
            query += 1
    _values(scores, count, dim, kv, values_at, table, page, block_size, keys, out, place * dim)


@inner
def merge(begin, end, table, offsets_at, parts_at, shape, partial, stats, parts, out):
    """out [rows begin..end, heads, dim]: row r folds partial results parts_of[offsets[r]:offsets[r + 1]]."""
    heads, kv_heads, _, dim = shape
    group = heads // kv_heads
    for row in range(begin, end):
        first, last = parts_at + table[offsets_at + row], parts_at + table[offsets_at + row + 1]
        for head in range(heads):
            base, member = head // group * parts, head % group
            _merge(
                first, last, table, base, group, member, dim, partial, stats, out, (row * heads + head) * dim
            )


@inner
def _merge(first, last, table, base, group, member, dim, partial, stats, out, place):
    top, total = _NOTHING, np.float32(0.0)
    for index in range(first, last):
        top = max(top, stats[2 * ((base + table[index]) * group + member)])
    for index in range(first, last):
        source = (base + table[index]) * group + member
        stats[2 * source] = simd.exp2(stats[2 * source] - top)
        total += stats[2 * source] * stats[2 * source + 1]
    inverse, begun = np.float32(1.0) / total, False
    for index in range(first, last):
        source = (base + table[index]) * group + member
        if stats[2 * source] != 0:  # of a partial result that weighs nothing there may be no sum
            simd.add_scaled(partial, source * dim, stats[2 * source] * inverse, out, place, dim, begun)
            begun = True
