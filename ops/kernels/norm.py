# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-untyped"
"""RMS norm of rows, alone and fused with the residual sum before it. One program a row, one pass, fp32 inside."""

import triton
import triton.language as tl


@triton.jit
def rms_norm(x, weight, out, x_row, out_row, eps, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):
    """out[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight. x_row, out_row: strides in elements."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < HIDDEN
    value = tl.load(x + row * x_row + columns, mask=inside, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, 0) / HIDDEN + eps)
    result = value * scale * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_row + columns, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def add_rms_norm(
    x, residual, weight, out, x_row, residual_row, out_row, eps, HIDDEN: tl.constexpr, BLOCK: tl.constexpr
):
    """residual[r] += x[r]; out[r] = rms_norm(residual[r]). The sum is normalised before it is rounded."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < HIDDEN
    place = residual + row * residual_row + columns
    value = tl.load(x + row * x_row + columns, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(place, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, value.to(residual.dtype.element_ty), mask=inside)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, 0) / HIDDEN + eps)
    result = value * scale * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_row + columns, result.to(out.dtype.element_ty), mask=inside)
