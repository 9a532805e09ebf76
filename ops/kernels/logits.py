# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-untyped"
"""What is done to logits before a token is chosen: penalties, bitmask, bias; and the largest of a row."""

import triton
import triton.language as tl


@triton.jit
def adjust(
    logits,  # [rows, vocab], fp32, in place
    slots,  # int [rows]: the row of `history` and of the penalties
    history,  # int32 [slots, vocab]: 2 x times generated + 1 where in the prompt
    repetition,  # fp32 [slots]
    frequency,
    presence,
    bitmask,  # int32 [rows, mask_row]: bit t % 32 of word t / 32 set: t may be chosen
    logits_row,
    history_row,
    mask_row,
    vocab,
    PENALTIES: tl.constexpr,
    MASK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (r, c) serves tokens c x BLOCK .. of row r. Each product and sum is rounded on its own."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = token < vocab
    place = logits + row * logits_row + token
    value = tl.load(place, mask=inside, other=0.0)
    if PENALTIES:
        slot = tl.load(slots + row).to(tl.int64)
        past = tl.load(history + slot * history_row + token, mask=inside, other=0)
        penalty = tl.load(repetition + slot)
        repeated = tl.where(value > 0, tl.div_rn(value, penalty), value * penalty)
        value = tl.where(past > 0, repeated, value)
        times = past >> 1
        value = value - tl.load(frequency + slot) * times.to(tl.float32)
        value = tl.where(times > 0, value - tl.load(presence + slot), value)
    if MASK:
        word = tl.load(bitmask + row * mask_row + token // 32, mask=inside, other=0)
        value = tl.where(((word >> (token % 32)) & 1) != 0, value, float("-inf"))
    tl.store(place, value, mask=inside)


@triton.jit
def add_bias(
    logits,
    offsets,  # int32 [rows + 1]
    tokens,  # int32, distinct within a row
    bias,  # fp32; -inf forbids
    logits_row,
    BLOCK: tl.constexpr,
):
    """logits[r, tokens[i]] += bias[i] for i in offsets[r] .. offsets[r + 1]. One program a row."""
    row = tl.program_id(0).to(tl.int64)
    end = tl.load(offsets + row + 1)
    for start in range(tl.load(offsets + row), end, BLOCK):
        index = start + tl.arange(0, BLOCK)
        inside = index < end
        place = logits + row * logits_row + tl.load(tokens + index, mask=inside, other=0)
        value = tl.load(place, mask=inside, other=0.0) + tl.load(bias + index, mask=inside, other=0.0)
        tl.store(place, value, mask=inside)


@triton.jit
def argmax_parts(logits, values, tokens, logits_row, vocab, parts, SPAN: tl.constexpr, BLOCK: tl.constexpr):
    """Program (r, p): the largest of row r's tokens p x SPAN .., the smallest id among equals. NaN is largest."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    lane = tl.arange(0, BLOCK)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    first = tl.full([BLOCK], 2147483647, tl.int32)
    for offset in range(0, SPAN, BLOCK):
        token = part * SPAN + offset + lane
        inside = token < vocab
        value = tl.load(logits + row * logits_row + token, mask=inside, other=float("-inf")).to(tl.float32)
        value = tl.where(value == value, value, float("inf"))
        better = inside & ((value > best) | (first == 2147483647))
        best = tl.where(better, value, best)
        first = tl.where(better, token, first)
    top = tl.max(best, 0)
    tl.store(values + row * parts + part, top)
    tl.store(tokens + row * parts + part, tl.min(tl.where(best == top, first, 2147483647), 0))


@triton.jit
def argmax_merge(values, tokens, out, finite, parts, BLOCK: tl.constexpr):
    """One program a row. finite[r]: whether the largest is finite; else row r has no token to choose."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, BLOCK)
    inside = part < parts
    value = tl.load(values + row * parts + part, mask=inside, other=float("-inf"))
    token = tl.load(tokens + row * parts + part, mask=inside, other=2147483647)
    top = tl.max(value, 0)
    tl.store(out + row, tl.min(tl.where(value == top, token, 2147483647), 0).to(tl.int64))
    tl.store(finite + row, (top > float("-inf")) & (top < float("inf")))
