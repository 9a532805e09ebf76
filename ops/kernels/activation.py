# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-untyped"
"""Gated activations: act(gate) * up, elementwise, fp32 inside."""

import triton
import triton.language as tl


@triton.jit
def gated(gate_up, out, gate_up_row, out_row, ffn, GELU: tl.constexpr, BLOCK: tl.constexpr):
    """gate_up: [rows, 2 x ffn], gate first. Program (r, c) computes columns c x BLOCK .. of row r.

    gelu_tanh(x) = x / 2 (1 + tanh u) = x sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3): so both are x times a
    sigmoid, and nothing cancels.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < ffn
    source = gate_up + row * gate_up_row
    gate = tl.load(source + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(source + ffn + columns, mask=inside, other=0.0).to(tl.float32)
    if GELU:
        argument = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
    else:
        argument = gate
    result = gate * tl.sigmoid(argument) * up
    tl.store(out + row * out_row + columns, result.to(out.dtype.element_ty), mask=inside)
