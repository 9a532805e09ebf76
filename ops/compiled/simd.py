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
    I64,
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

_EXP2 = (1.0, 0.6931471805599453, 0.2402265069591007, 0.05550410866482158, 0.009618129107628477,
         0.0013333558146428443, 0.00015403530393381608, 1.525273380405984e-05)  # fmt: skip
"""Taylor's coefficients of 2^f, ln(2)^n / n!: for |f| <= 1/2 they leave less than a float32's rounding."""


def _exp2(b: Builder, x: Value) -> Value:
    """2^x; 0 below -126, the largest power at 127."""
    bounded = call(b, "minnum", call(b, "maxnum", x, constant(-126.0)), constant(127.0))
    whole = call(b, "rint", bounded)
    rest = b.fsub(bounded, whole)
    power = constant(_EXP2[-1])
    for coefficient in reversed(_EXP2[:-1]):
        power = call(b, "fma", power, rest, constant(coefficient))
    exponent = b.add(b.fptosi(whole, IVEC), ir.Constant(IVEC, [127] * LANES))
    scale = b.bitcast(b.shl(exponent, ir.Constant(IVEC, [23] * LANES)), VEC)
    result = b.fmul(power, scale)
    small = b.fcmp_ordered("<", x, constant(-126.0))
    unordered = b.fcmp_unordered("uno", x, x)
    return b.select(unordered, x, b.select(small, constant(0.0), result))


@intrinsic
def exp2(typing: Any, x: Any) -> Any:
    """2^x of one number."""

    def generate(context: Any, b: Builder, signature: Any, args: tuple[Value, ...]) -> Value:
        return b.extract_element(_exp2(b, splat(b, args[0])), ir.Constant(I32, 0))

    return types.float32(types.float32), generate


_LOG2_E = 1.4426950408889634


def _silu(b: Builder, x: Value) -> Value:
    growth = _exp2(b, b.fmul(x, constant(-_LOG2_E)))
    return b.fdiv(x, b.fadd(constant(1.0), growth))


def _gelu_tanh(b: Builder, x: Value) -> Value:
    """x * sigmoid(2 y) = x / 2 * (1 + tanh(y)) with y = sqrt(2 / pi) * (x + 0.044715 x^3)."""
    cubic = b.fmul(b.fmul(x, x), x)
    inner = call(b, "fma", cubic, constant(0.044715), x)
    growth = _exp2(b, b.fmul(inner, constant(-2.0 * 0.7978845608028654 * _LOG2_E)))
    return b.fdiv(x, b.fadd(constant(1.0), growth))


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


@intrinsic
def largest(typing: Any, x: Any, at: Any, count: Any) -> Any:
    """The largest of count numbers; NaN among them may get lost."""

    def generate(context: Any, b: Builder, signature: Any, args: tuple[Value, ...]) -> Value:
        base = data(context, b, signature.args[0], args[0])

        def step(i: Value, best: list[Value]) -> list[Value]:
            return [call(b, "maxnum", best[0], load(b, base, b.add(args[1], i)))]

        (vector,) = loop(b, args[2], LANES, [constant(float("-inf"))], step)
        return fold(b, vector, lambda left, right: call(b, "maxnum", left, right))

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


@intrinsic
def cycles(typing: Any) -> Any:
    """The CPU's time stamp counter."""

    def generate(context: Any, b: Builder, signature: Any, args: tuple[Value, ...]) -> Value:
        kind = ir.FunctionType(I64, [])
        return b.call(cgutils.get_or_insert_function(b.module, kind, "llvm.readcyclecounter"), [])

    return types.int64(), generate
