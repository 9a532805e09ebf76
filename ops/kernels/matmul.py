# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-untyped"
"""The batch-invariant product of `--deterministic`: x @ w^T, one tile shape, one order of K, no split.

Invariant: out[r, c] is summed over K in blocks of BLOCK_K, ascending, in one accumulator, by the same
instructions whatever M, N and the row's place are. (cuBLAS picks tiles and splits by shape, so a row's bits
change with the rows beside it.)
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["M"])  # one binary for all M, a single row included
def linear(
    x,  # [M, K]
    weight,  # [N, K]
    bias,  # [N]
    residual,  # [M, N]
    out,  # [M, N]
    M,
    N,
    K,
    x_row,
    weight_row,
    residual_row,
    out_row,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Persistent. Tiles of one strip of the weight are adjacent, so that L2 serves it to all rows at once."""
    strips_m = tl.cdiv(M, BLOCK_M)
    tiles = strips_m * tl.cdiv(N, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        rows = (tile % strips_m) * BLOCK_M + tl.arange(0, BLOCK_M)
        columns = (tile // strips_m) * BLOCK_N + tl.arange(0, BLOCK_N)
        in_rows = (rows < M)[:, None]
        in_columns = columns < N
        x_place = x + rows.to(tl.int64)[:, None] * x_row + k[None, :]
        weight_place = weight + columns.to(tl.int64)[None, :] * weight_row + k[:, None]
        sums = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for start in range(0, K, BLOCK_K):
            if EVEN_K:
                left = tl.load(x_place + start, mask=in_rows, other=0.0)
                right = tl.load(weight_place + start, mask=in_columns[None, :], other=0.0)
            else:
                in_k = start + k < K
                left = tl.load(x_place + start, mask=in_rows & in_k[None, :], other=0.0)
                right = tl.load(weight_place + start, mask=in_columns[None, :] & in_k[:, None], other=0.0)
            sums = tl.dot(left, right, sums, input_precision="ieee")
        inside = in_rows & in_columns[None, :]
        if BIAS:
            sums += tl.load(bias + columns, mask=in_columns, other=0.0).to(tl.float32)[None, :]
        if RESIDUAL:
            place = residual + rows.to(tl.int64)[:, None] * residual_row + columns[None, :]
            sums += tl.load(place, mask=inside, other=0.0).to(tl.float32)
        target = out + rows.to(tl.int64)[:, None] * out_row + columns[None, :]
        tl.store(target, sums.to(out.dtype.element_ty), mask=inside)
