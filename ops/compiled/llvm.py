"""How vector code is written here: LLVM instructions for numba's intrinsics, on vectors of LANES float32.

Invariant: a loop's carried sums run in one order, and lanes are folded in one order. Nothing is compiled with
fast-math. Arrays are flat and C-contiguous; offsets and strides are in elements, and callers check bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils

LANES = 16
"""Numbers of a vector: one register with AVX-512, two with AVX2, four with NEON."""


F32, I16, I32, I64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
VEC, IVEC = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES)

Builder = Any
Value = Any


def i64(number: int) -> Value:
    return ir.Constant(I64, number)


def data(context: Any, builder: Builder, kind: Any, value: Value) -> Value:
    """The address of an array's first element."""
    return context.make_array(kind)(context, builder, value).data


def splat(builder: Builder, scalar: Value) -> Value:
    undefined = ir.Constant(VEC, ir.Undefined)
    single = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(single, undefined, ir.Constant(IVEC, [0] * LANES))


def constant(number: float) -> Value:
    return ir.Constant(VEC, [number] * LANES)


def call(builder: Builder, name: str, *args: Value) -> Value:
    """An LLVM intrinsic over vectors of float32."""
    kind = ir.FunctionType(VEC, [arg.type for arg in args])
    return builder.call(
        cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32"), args
    )


def load(builder: Builder, base: Value, at: Value) -> Value:
    """LANES numbers; bfloat16 ones, stored as uint16, are widened, which is exact."""
    pointer = builder.gep(base, [at])
    if base.type.pointee == F32:
        loaded = builder.load(builder.bitcast(pointer, VEC.as_pointer()))
        loaded.align = 4
        return loaded
    loaded = builder.load(builder.bitcast(pointer, ir.VectorType(I16, LANES).as_pointer()))
    loaded.align = 2
    widened = builder.shl(builder.zext(loaded, IVEC), ir.Constant(IVEC, [16] * LANES))
    return builder.bitcast(widened, VEC)


def store(builder: Builder, vector: Value, base: Value, at: Value) -> None:
    stored = builder.store(vector, builder.bitcast(builder.gep(base, [at]), VEC.as_pointer()))
    stored.align = 4


def loop(
    builder: Builder,
    count: Value,
    step: int,
    initial: list[Value],
    body: Callable[[Value, list[Value]], list[Value]],
) -> list[Value]:
    """for i in range(0, count, step): carried = body(i, carried). At least one turn is made."""
    entry = builder.block
    loop, done = builder.append_basic_block("loop"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    index = builder.phi(I64)
    index.add_incoming(i64(0), entry)
    carried = [builder.phi(value.type) for value in initial]
    for phi, value in zip(carried, initial, strict=True):
        phi.add_incoming(value, entry)
    results = body(index, carried)
    following = builder.add(index, i64(step))
    index.add_incoming(following, builder.block)
    for phi, value in zip(carried, results, strict=True):
        phi.add_incoming(value, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, done)
    builder.position_at_end(done)
    return results


def fold(builder: Builder, vector: Value, combine: Callable[[Value, Value], Value]) -> Value:
    """The lanes of a vector as one number, halves onto halves."""
    width = LANES
    while width > 1:
        width //= 2
        lanes = ir.Constant(IVEC, [(i + width) % LANES for i in range(LANES)])
        vector = combine(vector, builder.shuffle_vector(vector, vector, lanes))
    return builder.extract_element(vector, ir.Constant(I32, 0))


def function(
    module: Any, prefix: str, args: list[Value], build: Callable[[Builder, list[Value]], None]
) -> Value:
    """A function of its own in the module, that is not inlined: it is compiled once, not at every call."""
    name = ".".join(
        [prefix, *(str(arg.type.pointee) for arg in args if isinstance(arg.type, ir.PointerType))]
    )
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [arg.type for arg in args]), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    build(builder, list(function.args))
    builder.ret_void()
    return function
