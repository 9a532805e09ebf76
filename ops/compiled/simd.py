"""Loops over the numbers of a row, as numba intrinsics.

Invariant (batch invariance): a number depends on its own row alone; sums add lane by lane and fold the lanes in one
order. Counts are multiples of LANES; `at` is an offset in a flat array.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ops.compiled.llvm import (
    I32,
    IVEC,
    LANES,
    VEC,
    Builder,
    Value,
    call,
    constant,
    data,
    fold,
    load,
    loop,
    splat,
    store,
)

_EXP2 = (1.0, 0.6931469775994474, 0.2402224208499339, 0.05550733742934717, 0.009671512657181646,
         0.0013264727282947357)  # fmt: skip
"""Coefficients of 2^f for |f| <= 1/2, 1 at 0, found by weighted least squares: the error is at most 9.2e-8."""

_MOST = 127.0
_LEAST = -64.0
"""Smaller powers count as 0: neither 1 + 2^x nor a softmax's sum notices them, and their products may be denormal
numbers, which take a hundred times as long."""


def _exp2(b: Builder, x: Value) -> Value:
    """2^x for x <= 127; NaN stays."""
    small = b.fcmp_ordered("<", x, constant(_LEAST))
    bounded = b.select(small, constant(_LEAST), x)
    whole = call(b, "rint", bounded)
    rest = b.fsub(bounded, whole)
    power = constant(_EXP2[-1])
    for coefficient in reversed(_EXP2[:-1]):
        power = call(b, "fma", power, rest, constant(coefficient))
    exponent = b.shl(b.fptosi(whole, IVEC), ir.Constant(IVEC, [23] * LANES))
    result = b.bitcast(b.add(b.bitcast(power, IVEC), exponent), VEC)
    return b.select(small, constant(0.0), result)


def _sigmoid(b: Builder, x: Value, y: Value) -> Value:
    """x / (1 + 2^y)."""
    bounded = b.select(b.fcmp_ordered(">", y, constant(_MOST)), constant(_MOST), y)
    return b.fdiv(x, b.fadd(constant(1.0), _exp2(b, bounded)))


@intrinsic
def exp2(typing: Any, x: Any) -> Any:
    """2^x of one number."""

    def generate(context: Any, b: Builder, signature: Any, args: tuple[Value, ...]) -> Value:
        return b.extract_element(_exp2(b, splat(b, args[0])), ir.Constant(I32, 0))

    return types.float32(types.float32), generate


_LOG2_E = 1.4426950408889634


def _silu(b: Builder, x: Value) -> Value:
    return _sigmoid(b, x, b.fmul(x, constant(-_LOG2_E)))


def _gelu_tanh(b: Builder, x: Value) -> Value:
    """x / 2 * (1 + tanh(y)), y = sqrt(2 / pi) * (x + 0.044715 x^3), which is x * sigmoid(2 y)."""
    cubic = b.fmul(b.fmul(x, x), x)
    inner = call(b, "fma", cubic, constant(0.044715), x)
    return _sigmoid(b, x, b.fmul(inner, constant(-2.0 * 0.7978845608028654 * _LOG2_E)))


def _make_gated(activation: Callable[[Builder, Value], Value]) -> Any:
    @intrinsic
    def gated(
        typing: Any, gate: Any, gate_at: Any, up: Any, up_at: Any, out: Any, out_at: Any, count: Any
    ) -> Any:
        signature = types.void(gate, types.intp, up, types.intp, out, types.intp, types.intp)

        def generate(context: Any, b: Builder, signature: Any, args: tuple[Value, ...]) -> Value:
            gate, gate_at, up, up_at, out, out_at, count = args
            gate, up, out = (
                data(context, b, signature.args[i], value) for i, value in ((0, gate), (2, up), (4, out))
            )

            def step(i: Value, _: list[Value]) -> list[Value]:
                active = activation(b, load(b, gate, b.add(gate_at, i)))
                store(b, b.fmul(active, load(b, up, b.add(up_at, i))), out, b.add(out_at, i))
                return []

            loop(b, count, LANES, [], step)
            return context.get_dummy_value()

        return signature, generate

    return gated


silu_and_mul = _make_gated(_silu)
"""(gate, at, up, at, out, at, count): out = silu(gate) * up. count: a multiple of LANES, as everywhere below."""

gelu_tanh_and_mul = _make_gated(_gelu_tanh)


def _larger(b: Builder, x: Value, y: Value) -> Value:
    """The larger; y where one is NaN."""
    return b.select(b.fcmp_ordered(">", x, y), x, y)


@intrinsic
def largest(typing: Any, x: Any, at: Any, count: Any) -> Any:
    """The largest of count numbers; NaN among them may get lost."""

    def generate(context: Any, b: Builder, signature: Any, args: tuple[Value, ...]) -> Value:
        base = data(context, b, signature.args[0], args[0])

        def step(i: Value, best: list[Value]) -> list[Value]:
            return [_larger(b, load(b, base, b.add(args[1], i)), best[0])]

        (vector,) = loop(b, args[2], LANES, [constant(float("-inf"))], step)
        return fold(b, vector, lambda left, right: _larger(b, left, right))

    return types.float32(x, types.intp, types.intp), generate


@intrinsic
def exp2_and_sum(typing: Any, x: Any, at: Any, count: Any, shift: Any) -> Any:
    """x = 2^(x - shift), in place; the sum."""

    def generate(context: Any, b: Builder, signature: Any, args: tuple[Value, ...]) -> Value:
        base = data(context, b, signature.args[0], args[0])
        shift = splat(b, args[3])

        def step(i: Value, total: list[Value]) -> list[Value]:
            place = b.add(args[1], i)
            power = _exp2(b, b.fsub(load(b, base, place), shift))
            store(b, power, base, place)
            return [b.fadd(total[0], power)]

        (vector,) = loop(b, args[2], LANES, [constant(0.0)], step)
        return fold(b, vector, b.fadd)

    return types.float32(x, types.intp, types.intp, types.float32), generate


@intrinsic
def sum_of_squares(typing: Any, x: Any, at: Any, count: Any) -> Any:
    """Of count numbers."""

    def generate(context: Any, b: Builder, signature: Any, args: tuple[Value, ...]) -> Value:
        base = data(context, b, signature.args[0], args[0])

        def step(i: Value, total: list[Value]) -> list[Value]:
            vector = load(b, base, b.add(args[1], i))
            return [call(b, "fma", vector, vector, total[0])]

        (vector,) = loop(b, args[2], LANES, [constant(0.0)], step)
        return fold(b, vector, b.fadd)

    return types.float32(x, types.intp, types.intp), generate


@intrinsic
def scale_by(
    typing: Any, x: Any, at: Any, factor: Any, weight: Any, weight_at: Any, out: Any, out_at: Any, count: Any
) -> Any:
    """out = x * factor * weight."""
    signature = types.void(x, types.intp, types.float32, weight, types.intp, out, types.intp, types.intp)

    def generate(context: Any, b: Builder, signature: Any, args: tuple[Value, ...]) -> Value:
        x, at, factor, weight, weight_at, out, out_at, count = args
        x, weight, out = (
            data(context, b, signature.args[i], value) for i, value in ((0, x), (3, weight), (5, out))
        )
        factor = splat(b, factor)

        def step(i: Value, _: list[Value]) -> list[Value]:
            scaled = b.fmul(load(b, x, b.add(at, i)), factor)
            store(b, b.fmul(scaled, load(b, weight, b.add(weight_at, i))), out, b.add(out_at, i))
            return []

        loop(b, count, LANES, [], step)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_scaled(
    typing: Any, x: Any, at: Any, factor: Any, out: Any, out_at: Any, count: Any, onto: Any
) -> Any:
    """out = x * factor, or out += x * factor in one rounding."""
    signature = types.void(x, types.intp, types.float32, out, types.intp, types.intp, types.boolean)

    def generate(context: Any, b: Builder, signature: Any, args: tuple[Value, ...]) -> Value:
        x, at, factor, out, out_at, count, onto = args
        x, out = data(context, b, signature.args[0], x), data(context, b, signature.args[3], out)
        factor, begun = splat(b, factor), cgutils.as_bool_bit(b, onto)

        def step(i: Value, _: list[Value]) -> list[Value]:
            place = b.add(out_at, i)
            before = b.select(begun, load(b, out, place), constant(0.0))
            store(b, call(b, "fma", load(b, x, b.add(at, i)), factor, before), out, place)
            return []

        loop(b, count, LANES, [], step)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def rotate(typing: Any, x: Any, at: Any, half: Any, cos: Any, sin: Any, turn: Any) -> Any:
    """Elements i and i + half of x turn together, in place, by cos and sin at turn + i. half: of whole vectors."""
    signature = types.void(x, types.intp, types.intp, cos, sin, types.intp)

    def generate(context: Any, b: Builder, signature: Any, args: tuple[Value, ...]) -> Value:
        x, at, half, cos, sin, turn = args
        x, cos, sin = (
            data(context, b, signature.args[i], value) for i, value in ((0, x), (3, cos), (4, sin))
        )
        upper = b.add(at, half)

        def step(i: Value, _: list[Value]) -> list[Value]:
            low, high = load(b, x, b.add(at, i)), load(b, x, b.add(upper, i))
            across, along = load(b, cos, b.add(turn, i)), load(b, sin, b.add(turn, i))
            store(b, b.fsub(b.fmul(low, across), b.fmul(high, along)), x, b.add(at, i))
            store(b, b.fadd(b.fmul(high, across), b.fmul(low, along)), x, b.add(upper, i))
            return []

        loop(b, half, LANES, [], step)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def widen(typing: Any, x: Any, at: Any, out: Any, out_at: Any, count: Any) -> Any:
    """out = x as float32."""
    signature = types.void(x, types.intp, out, types.intp, types.intp)

    def generate(context: Any, b: Builder, signature: Any, args: tuple[Value, ...]) -> Value:
        x, at, out, out_at, count = args
        x, out = data(context, b, signature.args[0], x), data(context, b, signature.args[2], out)

        def step(i: Value, _: list[Value]) -> list[Value]:
            store(b, load(b, x, b.add(at, i)), out, b.add(out_at, i))
            return []

        loop(b, count, LANES, [], step)
        return context.get_dummy_value()

    return signature, generate
