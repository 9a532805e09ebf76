# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-untyped"
"""Copies between KV blocks: what a fork of a partly filled block costs."""

import triton
import triton.language as tl


@triton.jit
def copy_blocks(
    kv,  # [layer][block][k/v][kv_head][slot][dim], slots of a head contiguous
    copies,  # int32 [n, 3]: source block, target block, tokens
    kv_layer,
    kv_block,
    kv_value,
    kv_head,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (c, l, h): copy c in layer l, head h of 2 x KV_HEADS (keys, then values)."""
    copy = copies + tl.program_id(0) * 3
    source = tl.load(copy).to(tl.int64) * kv_block
    target = tl.load(copy + 1).to(tl.int64) * kv_block
    elements = tl.load(copy + 2) * DIM
    which = tl.program_id(2)
    lane = (which // KV_HEADS).to(tl.int64) * kv_value + (which % KV_HEADS).to(tl.int64) * kv_head
    base = kv + tl.program_id(1).to(tl.int64) * kv_layer + lane
    for start in range(0, PAGE * DIM, BLOCK):
        element = start + tl.arange(0, BLOCK)
        inside = element < elements
        tl.store(base + target + element, tl.load(base + source + element, mask=inside), mask=inside)
