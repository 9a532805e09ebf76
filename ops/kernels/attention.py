# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-untyped"
"""Paged attention over the tiles of an AttentionPlan, and the merge of their partial results.

One kernel serves decode rows, prefill over a cached prefix and shared prefixes: a tile is (rows x a run of
pages), and the rows of a tile times the query heads of one KV head are the M of its matrix products:

    M index   0 .. GROUP-1   GROUP .. 2 GROUP-1   ...      one program: one tile, one KV head
    row       row_begin      row_begin + 1        ...      K, V pages of that head are read once for all of M

Algorithm: FlashAttention-2 (Dao 2023) inside a tile, split-KV across tiles (FlashDecoding), the online softmax
in base 2. Invariant: keys go in blocks of BLOCK_N aligned to the tile's first key, and a block in which a row
sees nothing changes nothing of it, not even a rounding; so a row's partial result is a function of its query,
its position, the tile's keys and the configuration.
"""

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN_2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit
def attend_tiles(
    q,  # [rows, HEADS, DIM]
    kv,  # [block][k/v][kv_head][slot][dim], strides below, dim contiguous
    tiles,  # int32 [tiles, 6]: row_begin, row_end, page_begin, page_end, first_key, part
    tile_range,  # int32 [2]: this launch's tiles, begin and end
    pages,  # int32
    positions,  # int32 [rows]
    out,  # fp32 [parts, HEADS, DIM]
    lse,  # fp32 [parts, HEADS], natural logarithm
    scale,
    soft_cap,
    window,
    q_row,
    q_head,
    kv_block,
    kv_value,
    kv_head,
    kv_slot,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_STEP: tl.constexpr,  # heads between the query heads of one KV head
    HEAD_STEP: tl.constexpr,  # heads between those of one KV head and the next
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Persistent: program p takes items p, p + programs, ...; item = (tile, KV head), heads of a tile adjacent.

    A tile has at most BLOCK_M // GROUP rows (`ops.cuda_attention.split_tiles`). Keys past a tile's last row or
    its run are never read, so what lies in fresh memory does not matter.
    """
    begin = tl.load(tile_range)
    items = (tl.load(tile_range + 1) - begin) * KV_HEADS
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    in_dim = d < DIM
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        fields = tiles + (begin + item // KV_HEADS).to(tl.int64) * 6
        kv_index = item % KV_HEADS
        row_begin = tl.load(fields)
        rows = tl.load(fields + 1) - row_begin
        page_begin = tl.load(fields + 2)
        run = (tl.load(fields + 3) - page_begin) * PAGE
        first_key = tl.load(fields + 4)
        part = tl.load(fields + 5)

        row = m // GROUP
        head = (m % GROUP) * GROUP_STEP + kv_index * HEAD_STEP
        valid = row < rows
        position = tl.load(positions + row_begin + row, mask=valid, other=-1)
        keys_end = tl.minimum(run, tl.max(position, 0) + 1 - first_key)
        keys_begin = 0
        if WINDOW:
            earliest = tl.min(tl.where(valid, position, 2147483647), 0) + 1 - window - first_key
            keys_begin = tl.maximum(earliest, 0) // BLOCK_N * BLOCK_N

        q_place = (row_begin + row).to(tl.int64) * q_row + head.to(tl.int64) * q_head
        q_mask = valid[:, None] & in_dim[None, :]
        query = tl.load(q + q_place[:, None] + d[None, :], mask=q_mask, other=0.0)
        highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        sums = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        head_base = kv + kv_index.to(tl.int64) * kv_head
        for start in range(keys_begin, keys_end, BLOCK_N):
            key = start + n
            present = key < keys_end
            if PAGE % BLOCK_N == 0:  # a block of keys lies in one page
                page = tl.load(pages + page_begin + start // PAGE).to(tl.int64)
                place = page * kv_block + (start % PAGE + n).to(tl.int64) * kv_slot
            else:
                page = tl.load(pages + page_begin + key // PAGE, mask=present, other=0).to(tl.int64)
                place = page * kv_block + (key % PAGE).to(tl.int64) * kv_slot
            keys = tl.load(
                head_base + place[None, :] + d[:, None], mask=present[None, :] & in_dim[:, None], other=0.0
            )
            scores = tl.dot(query, keys, input_precision="ieee")
            if SOFT_CAP:
                # tanh(x) = 1 - 2 / (exp(2x) + 1), which ends at -1 and 1 without overflow
                capped = 1.0 - 2.0 / (tl.exp2(scores * (scale * 2.0 * LOG2_E / soft_cap)) + 1.0)
                scores = capped * (soft_cap * LOG2_E)
            else:
                scores = scores * (scale * LOG2_E)
            absolute = first_key + key
            visible = (absolute[None, :] <= position[:, None]) & present[None, :]
            if WINDOW:
                visible = visible & (absolute[None, :] > position[:, None] - window)
            scores = tl.where(visible, scores, float("-inf"))
            higher = tl.maximum(highest, tl.max(scores, 1))
            shift = tl.where(higher == float("-inf"), 0.0, higher)
            weights = tl.exp2(scores - shift[:, None])
            fade = tl.exp2(highest - shift)
            total = total * fade + tl.sum(weights, 1)
            highest = higher
            values = tl.load(
                head_base + kv_value + place[:, None] + d[None, :],
                mask=present[:, None] & in_dim[None, :],
                other=0.0,
            )
            sums = tl.dot(weights.to(values.dtype), values, sums * fade[:, None], input_precision="ieee")

        seen = total > 0.0
        result = sums / tl.where(seen, total, 1.0)[:, None]
        target = (part + row).to(tl.int64) * (KV_HEADS * GROUP) + head
        log_sum = tl.where(seen, (highest + tl.log2(tl.where(seen, total, 1.0))) * LN_2, float("-inf"))
        tl.store(lse + target, log_sum, mask=valid)
        tl.store(out + target[:, None] * DIM + d[None, :], result, mask=q_mask)


@triton.jit
def merge_parts(
    partial,  # fp32 [parts, HEADS, DIM]
    lse,  # fp32 [parts, HEADS]
    offsets,  # int32 [rows + 1]
    parts,  # int32
    out,  # [rows, HEADS, DIM]
    out_row,
    out_head,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """out[r] = the parts of row r, weighted by exp(lse), in their order. A row without parts becomes zeros."""
    row = tl.program_id(0)
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    d = tl.arange(0, BLOCK_D)
    real = head < HEADS
    inside = real[:, None] & (d < DIM)[None, :]
    highest = tl.full([BLOCK_HEADS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_HEADS], tl.float32)
    sums = tl.zeros([BLOCK_HEADS, BLOCK_D], tl.float32)
    for index in range(tl.load(offsets + row), tl.load(offsets + row + 1)):
        source = tl.load(parts + index).to(tl.int64) * HEADS + head
        log_sum = tl.load(lse + source, mask=real, other=float("-inf"))
        higher = tl.maximum(highest, log_sum)
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        fade = tl.exp2((highest - shift) * LOG2_E)
        weight = tl.exp2((log_sum - shift) * LOG2_E)
        values = tl.load(partial + source[:, None] * DIM + d[None, :], mask=inside, other=0.0)
        sums = sums * fade[:, None] + values * weight[:, None]
        total = total * fade + weight
        highest = higher
    result = sums / tl.where(total > 0.0, total, 1.0)[:, None]
    target = row.to(tl.int64) * out_row + head.to(tl.int64)[:, None] * out_head + d[None, :]
    tl.store(out + target, result.to(out.dtype.element_ty), mask=inside)
