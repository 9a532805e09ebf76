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
from numba import get_thread_id, prange

from ops.compiled import llvm, simd
from ops.compiled.jit import inner, shared
from ops.compiled.products import AFRESH, LANES, ZERO, product1, product2
from ops.compiled.rows import MANY
from ops.compiled.tiles import TILE_ROWS

CHUNK = 256

QUERIES = 2 * TILE_ROWS
"""Query rows that share what is loaded of keys and values."""

_STRIDE = np.int64(CHUNK + llvm.LANES)
"""Between rows of scores: not a power of two, or they would meet in few places of the cache."""

SCRATCH = QUERIES * (CHUNK + llvm.LANES)
"""Numbers that a thread needs for up to QUERIES query rows."""

_NOTHING = np.float32(-np.inf)


@inner
def _scores(q, q_at, count, dim, kv, keys_at, pages, page, block_size, keys, out):
    """out[count, ...] = queries x the first `keys` keys of the pages from `page` on, whole groups of LANES."""
    for begin in range(0, keys, block_size):
        at, count_here = keys_at + pages[page] * block_size * dim, min(block_size, keys - begin)
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
def _values(weights, count, dim, kv, values_at, pages, page, block_size, keys, out, out_at):
    """out[count, dim] = weights[count, keys] x values."""
    for begin in range(0, keys, block_size):
        depth, at = min(block_size, keys - begin), values_at + pages[page] * block_size * dim
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
def _rows(
    begin,
    end,
    head,
    tile,
    pages,
    positions,
    shape,
    block_size,
    window,
    q,
    rows,
    kv,
    kv_at,
    slots,
    out,
    stats,
    parts,
    scores,
):
    """The partial results of a tile's rows begin..end for one kv head."""
    heads, kv_heads, _, dim = shape
    group = heads // kv_heads
    first_key = tile[4]
    newest, oldest = positions[begin], positions[begin]
    for row in range(begin, end):
        newest, oldest = max(newest, positions[row]), min(oldest, positions[row])
    keys = min(newest - first_key + 1, (tile[3] - tile[2]) * block_size)
    keys_at, values_at = kv_at + head * slots * dim, kv_at + (kv_heads + head) * slots * dim
    count, place = (end - begin) * group, (head * parts + tile[5] + begin - tile[0]) * group
    if window > 0 and oldest - window + 1 - first_key >= keys:
        for query in range(count):
            stats[2 * (place + query)], stats[2 * (place + query) + 1] = _NOTHING, np.float32(0.0)
        return
    _scores(
        q, (head * rows + begin) * group * dim, count, dim, kv, keys_at, pages, tile[2], block_size, keys,
        scores,
    )  # fmt: skip
    query = 0
    for row in range(begin, end):
        visible = positions[row] - first_key + 1
        first = max(ZERO, visible - window) if window > 0 else ZERO
        for _ in range(group):
            top, total = _weigh(scores, query * _STRIDE, first, min(visible, keys), keys)
            stats[2 * (place + query)], stats[2 * (place + query) + 1] = top, total
            query += 1
    _values(scores, count, dim, kv, values_at, pages, tile[2], block_size, keys, out, place * dim)


@shared
def attend(
    tiles, pages, positions, shape, block_size, window, q, rows, kv, kv_at, slots, out, stats, parts, scratch
):
    """Every tile's partial results: out [kv_heads, parts, group, dim] and stats [kv_heads, parts, group, 2].

    window: keys that a row sees, its own among them; 0: all. scratch: [threads, >= SCRATCH].
    """
    heads, kv_heads = shape[0], shape[1]
    step = max(1, QUERIES // (heads // kv_heads))
    for index in prange(kv_heads * len(tiles)):
        item = np.int64(index)
        head, tile = item // len(tiles), tiles[item % len(tiles)]
        own = scratch[get_thread_id()]
        for begin in range(tile[0], tile[1], step):
            _rows(begin, min(begin + step, tile[1]), head, tile, pages, positions, shape, block_size, window,
                  q, rows, kv, kv_at, slots, out, stats, parts, own)  # fmt: skip


@inner
def _merge_row(row, offsets, parts_of, shape, partial, stats, parts, out):
    heads, kv_heads, _, dim = shape
    group = heads // kv_heads
    begin, end = offsets[row], offsets[row + 1]
    for head in range(heads):
        base, member = head // group * parts, head % group
        top, total = _NOTHING, np.float32(0.0)
        for index in range(begin, end):
            top = max(top, stats[2 * ((base + parts_of[index]) * group + member)])
        for index in range(begin, end):
            source = (base + parts_of[index]) * group + member
            stats[2 * source] = simd.exp2(stats[2 * source] - top)
            total += stats[2 * source] * stats[2 * source + 1]
        inverse, begun = np.float32(1.0) / total, False
        for index in range(begin, end):
            source = (base + parts_of[index]) * group + member
            if stats[2 * source] != 0:  # of a partial result that weighs nothing there may be no sum
                factor = stats[2 * source] * inverse
                simd.add_scaled(partial, source * dim, factor, out, (row * heads + head) * dim, dim, begun)
                begun = True


@shared
def _merge_many(rows, offsets, parts_of, shape, partial, stats, parts, out):
    for index in prange(rows):
        row = np.int64(index)
        _merge_row(row, offsets, parts_of, shape, partial, stats, parts, out)


@inner
def merge(rows, offsets, parts_of, shape, partial, stats, parts, out):
    """out [rows, heads, dim]: row r folds partial results parts_of[offsets[r]:offsets[r + 1]]."""
    if rows >= MANY:
        _merge_many(rows, offsets, parts_of, shape, partial, stats, parts, out)
    else:
        for row in range(rows):
            _merge_row(row, offsets, parts_of, shape, partial, stats, parts, out)
