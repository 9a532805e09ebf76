# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-untyped"
"""One token a row: temperature, top-k, top-p, min-p and the draw, without sorting.

Logits become *keys*: the bits of (largest - logit) / temperature, a float that is not negative, so its bits as
an integer have its order. Key 0 is the likeliest token, exp(-key) its weight. Truncation keeps the keys up to a
limit, ties included, and every limit is found by bisection on the key's 31 bits: "at least k tokens" and "at
least top_p of the mass" are both monotone in it. Bisection runs over candidates that one pass collects:

    row of logits --largest--> keys --histogram of exponents (top-k) or a floor (top-p)--> candidates --> limit

The draw inverts the cumulative distribution in the order of ids, as `ops.sampling` does, with the same random
number: Philox4x32-10 at (seed, position). Sums are fp64 over fp32 weights.
"""

import triton
import triton.language as tl

INFINITE_KEY: tl.constexpr = tl.constexpr(0x7F800000)


@triton.jit
def uniform(seed, position):
    """`ops.sampling.philox_uniforms`: 53 bits in [0, 1)."""
    high, low, _, _ = tl.philox(
        seed, (position & 0xFFFFFFFF).to(tl.uint32), ((position >> 32) & 0xFFFFFFFF).to(tl.uint32), 0, 0
    )
    wide = (high >> 5).to(tl.float64) * 67108864.0 + (low >> 6).to(tl.float64)
    return wide / 9007199254740992.0


@triton.jit
def load_keys(row_logits, start, vocab, top, inverse, BLOCK: tl.constexpr):
    token = start + tl.arange(0, BLOCK)
    value = tl.load(row_logits + token, mask=token < vocab, other=float("-inf"))
    return ((top - value) * inverse).to(tl.int32, bitcast=True)


@triton.jit
def weights_of(keys, limit):
    distance = keys.to(tl.float32, bitcast=True)
    return tl.where(keys <= limit, tl.exp(-distance), 0.0)


@triton.jit
def mass_up_to(candidates, count, limit, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK], tl.float64)
    for start in range(0, count, BLOCK):
        index = start + tl.arange(0, BLOCK)
        keys = tl.load(candidates + index, mask=index < count, other=2147483647)
        total += weights_of(keys, limit).to(tl.float64)
    return tl.sum(total, 0)


@triton.jit
def number_up_to(candidates, count, limit, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK], tl.int32)
    for start in range(0, count, BLOCK):
        index = start + tl.arange(0, BLOCK)
        keys = tl.load(candidates + index, mask=index < count, other=2147483647)
        total += (keys <= limit).to(tl.int32)
    return tl.sum(total, 0)


@triton.jit
def sample_rows(
    logits,  # fp32 [rows, vocab]
    slots,  # int [rows]: where a row's parameters are
    positions,  # int64 [rows]
    inverse_temperature,  # fp32 [slots], 1 / temperature; 0: the likeliest token
    top_k,  # int32 [slots]; 0: all
    top_p,  # fp32 [slots]
    min_p,  # fp32 [slots]
    seeds,  # int64 [slots]
    scratch,  # int32 [rows, vocab]
    tokens,  # int64 [rows]
    chosen,  # bool [rows]: false where no token may be chosen (nothing finite, or NaN)
    logits_row,
    scratch_row,
    vocab,
    BLOCK: tl.constexpr,
):
    """One program a row."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    row_logits = logits + row * logits_row
    candidates = scratch + row * scratch_row
    lane = tl.arange(0, BLOCK)

    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    for start in range(0, vocab, BLOCK):
        token = start + lane
        value = tl.load(row_logits + token, mask=token < vocab, other=float("-inf"))
        highest = tl.maximum(highest, tl.where(value == value, value, float("inf")))
    top = tl.max(highest, 0)
    finite = (top > float("-inf")) & (top < float("inf"))
    top = tl.where(finite, top, 0.0)

    inverse = tl.load(inverse_temperature + slot)
    greedy = inverse == 0.0
    inverse = tl.where(greedy, 1.0, inverse)
    k = tl.load(top_k + slot)
    p = tl.load(top_p + slot)
    smallest = tl.load(min_p + slot)
    by_k = (k > 0) & (k < vocab) & (greedy == 0) & finite
    by_p = (p < 1.0) & (greedy == 0) & finite
    limit = tl.where(greedy, 0, INFINITE_KEY)

    if by_k | by_p:
        # One pass: how many keys have each exponent, and the mass of all.
        counts = tl.zeros([256], tl.int32)
        mass = tl.zeros([BLOCK], tl.float64)
        for start in range(0, vocab, BLOCK):
            keys = load_keys(row_logits, start, vocab, top, inverse, BLOCK)
            counts += tl.histogram(keys >> 23, 256)
            mass += weights_of(keys, INFINITE_KEY).to(tl.float64)
        total = tl.sum(mass, 0)
        bound = INFINITE_KEY + 0
        if by_k:
            exponent = tl.sum((tl.cumsum(counts, 0) < k).to(tl.int32), 0)
            bound = tl.minimum(((exponent + 1) << 23) - 1, INFINITE_KEY)
            floor = total * 0.0
        else:
            # Tokens below this together have less than 1 - top_p; half of it, for what rounding does.
            floor = (1.0 - p.to(tl.float64)) * total / vocab * 0.5
        count = 0
        for start in range(0, vocab, BLOCK):
            keys = load_keys(row_logits, start, vocab, top, inverse, BLOCK)
            weight = weights_of(keys, bound).to(tl.float64)
            keep = (keys <= bound) & (weight >= floor) & (start + lane < vocab)
            kept = keep.to(tl.int32)
            tl.store(candidates + count + tl.cumsum(kept, 0) - kept, keys, mask=keep)
            count += tl.sum(kept, 0)
        tl.debug_barrier()  # what other threads of this program stored is read from here on
        if by_k:
            low = 0
            high = bound
            while low < high:
                middle = low + (high - low) // 2
                enough = number_up_to(candidates, count, middle, BLOCK) >= k
                high = tl.where(enough, middle, high)
                low = tl.where(enough, low, middle + 1)
            bound = low
            total = mass_up_to(candidates, count, bound, BLOCK)
        if by_p:
            wanted = p.to(tl.float64) * total
            low = 0
            high = bound
            while low < high:
                middle = low + (high - low) // 2
                enough = mass_up_to(candidates, count, middle, BLOCK) >= wanted
                high = tl.where(enough, middle, high)
                low = tl.where(enough, low, middle + 1)
            bound = low
        limit = bound
    if (smallest > 0.0) & (greedy == 0):
        # The maximum makes -0.0, whose bits are the smallest integer, key 0.
        cut = (-tl.log(smallest)).to(tl.int32, bitcast=True)
        limit = tl.minimum(limit, tl.maximum(cut, 0))

    total = tl.full([], 0.0, tl.float64)
    for start in range(0, vocab, BLOCK):
        keys = load_keys(row_logits, start, vocab, top, inverse, BLOCK)
        total += tl.sum(weights_of(keys, limit).to(tl.float64), 0)
    random = uniform(tl.load(seeds + slot), tl.load(positions + row))
    target = tl.where(greedy, 0.0, random) * total
    cumulative = tl.full([], 0.0, tl.float64)
    before = tl.full([], 0.0, tl.float64)
    block = -1
    for start in range(0, vocab, BLOCK):
        keys = load_keys(row_logits, start, vocab, top, inverse, BLOCK)
        after = cumulative + tl.sum(weights_of(keys, limit).to(tl.float64), 0)
        here = (block < 0) & (after > target)
        block = tl.where(here, start, block)
        before = tl.where(here, cumulative, before)
        cumulative = after
    block = tl.maximum(block, 0)
    weight = weights_of(load_keys(row_logits, block, vocab, top, inverse, BLOCK), limit).to(tl.float64)
    passed = (tl.cumsum(weight, 0) + before > target) & (weight > 0.0)
    first = tl.min(tl.where(passed, lane, BLOCK), 0)
    # Rounding put the target past the block's own sum: its last token that may be chosen.
    last = tl.max(tl.where(weight > 0.0, lane, 0), 0)
    place = tl.where(first < BLOCK, first, last)
    tl.store(tokens + row, tl.where(finite, block + place, 0).to(tl.int64))
    tl.store(chosen + row, finite)
