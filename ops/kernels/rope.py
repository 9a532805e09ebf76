# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-untyped"
"""QK-norm, rotary embedding and the write into the paged KV memory, in one pass over a row's heads."""

import triton
import triton.language as tl


@triton.jit
def rope_and_write_kv(
    qkv,  # [rows, HEADS + 2 x KV_HEADS, DIM]: queries, keys, values
    positions,  # int [rows]
    slots,  # int [rows], block x PAGE + offset
    cos,  # fp32 [positions, DIM / 2]
    sin,
    norm_weight,  # fp32 [HEADS + KV_HEADS, DIM]
    q_out,  # [rows, HEADS, DIM]
    kv,  # [block][k/v][kv_head][slot][dim], strides below, dim contiguous
    qkv_row,
    table_row,
    q_row,
    kv_block,
    kv_value,
    kv_head,
    kv_slot,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    NORM: tl.constexpr,
    ROPE: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    """Program (r, b) serves BLOCK_HEADS of row r's heads. The pairs (i, i + DIM / 2) are two tiles.

    Values pass through unchanged: they are the heads from HEADS + KV_HEADS on.
    """
    HALF: tl.constexpr = DIM // 2
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    pair = tl.arange(0, BLOCK_HALF)
    inside = (head < HEADS + 2 * KV_HEADS)[:, None] & (pair < HALF)[None, :]
    source = qkv + row * qkv_row + head[:, None] * DIM + pair[None, :]
    first = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + HALF, mask=inside, other=0.0).to(tl.float32)
    turned = (head < HEADS + KV_HEADS)[:, None]
    if NORM:
        mean = (tl.sum(first * first, 1) + tl.sum(second * second, 1)) / DIM
        scale = (1.0 / tl.sqrt(mean + eps))[:, None]
        weights = norm_weight + head[:, None] * DIM + pair[None, :]
        first = tl.where(turned, first * scale * tl.load(weights, mask=inside & turned, other=0.0), first)
        second = tl.where(
            turned, second * scale * tl.load(weights + HALF, mask=inside & turned, other=0.0), second
        )
    if ROPE:
        entry = tl.load(positions + row).to(tl.int64) * table_row + pair
        c = tl.load(cos + entry, mask=pair < HALF, other=0.0)[None, :]
        s = tl.load(sin + entry, mask=pair < HALF, other=0.0)[None, :]
        rotated_first = first * c - second * s
        rotated_second = second * c + first * s
        first = tl.where(turned, rotated_first, first)
        second = tl.where(turned, rotated_second, second)

    queries = inside & (head < HEADS)[:, None]
    target = q_out + row * q_row + head[:, None] * DIM + pair[None, :]
    tl.store(target, first.to(q_out.dtype.element_ty), mask=queries)
    tl.store(target + HALF, second.to(q_out.dtype.element_ty), mask=queries)

    stored = inside & (head >= HEADS)[:, None]
    slot = tl.load(slots + row).to(tl.int64)
    which = head - HEADS  # keys, then values
    is_value = which >= KV_HEADS
    lane = tl.where(is_value, which - KV_HEADS, which).to(tl.int64) * kv_head + tl.where(
        is_value, kv_value, 0
    )
    place = kv + (slot // PAGE) * kv_block + (slot % PAGE) * kv_slot + lane[:, None] + pair[None, :]
    tl.store(place, first.to(kv.dtype.element_ty), mask=stored)
    tl.store(place + HALF, second.to(kv.dtype.element_ty), mask=stored)
