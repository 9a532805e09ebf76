"""How threads share a step: whoever is there takes the next item of work, and nobody waits for who is not.

A step is a sequence of phases, each of so many items that may run in any order. One thread drives: it publishes a
phase, takes items as everybody does, and goes on when all are done. Helpers look for items as long as a step is
open. A helper that the operating system has not let run yet, because a server and its clients want the same cores,
costs nothing: the driver takes its items too. (A parallel loop of OpenMP waits for all of its threads, at every
loop: among busy neighbours that was up to 4 ms each.)

    board[COUNTER]   phase << 40 | items << 20 | next item     one atomic addition claims an item, and tells of what
    board[DONE]      items that helpers have finished
    board[OPEN]      0 between steps: helpers leave
    board[ARGUMENTS:]   what the phase is, written before the counter

Invariant: a claimed item belongs to the phase whose arguments are on the board, since the driver does not go on
before it is done.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ops.compiled.jit import inner
from ops.compiled.llvm import I64, Builder, Value, data

COUNTER, DONE, OPEN, ARGUMENTS = 0, 8, 16, 24
"""Places on the board, int64; each in a cache line of its own."""

BOARD = 48
"""Size of the board."""

_PHASE, _ITEMS = 40, 20
_MASK = (1 << _ITEMS) - 1


@intrinsic
def add(typing: Any, board: Any, place: Any, number: Any) -> Any:
    """board[place] += number; what was there before. Atomic."""

    def generate(context: Any, b: Builder, signature: Any, args: tuple[Value, ...]) -> Value:
        address = b.gep(data(context, b, signature.args[0], args[0]), [args[1]])
        return b.atomic_rmw("add", address, args[2], "seq_cst")

    return types.int64(board, types.intp, types.int64), generate


@intrinsic
def look(typing: Any, board: Any, place: Any) -> Any:
    """board[place]. Atomic."""

    def generate(context: Any, b: Builder, signature: Any, args: tuple[Value, ...]) -> Value:
        address = b.gep(data(context, b, signature.args[0], args[0]), [args[1]])
        return b.load_atomic(address, "seq_cst", 8)

    return types.int64(board, types.intp), generate


@intrinsic
def put(typing: Any, board: Any, place: Any, number: Any) -> Any:
    """board[place] = number. Atomic."""

    def generate(context: Any, b: Builder, signature: Any, args: tuple[Value, ...]) -> Value:
        address = b.gep(data(context, b, signature.args[0], args[0]), [args[1]])
        b.store_atomic(args[2], address, "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(board, types.intp, types.int64), generate


@intrinsic
def pause(typing: Any) -> Any:
    """Tell the core that this is a wait."""

    def generate(context: Any, b: Builder, signature: Any, args: tuple[Value, ...]) -> Value:
        if platform.machine() in ("x86_64", "AMD64"):
            kind = ir.FunctionType(ir.VoidType(), [])
            b.call(cgutils.get_or_insert_function(b.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def cycles(typing: Any) -> Any:
    """The CPU's time stamp counter."""

    def generate(context: Any, b: Builder, signature: Any, args: tuple[Value, ...]) -> Value:
        kind = ir.FunctionType(I64, [])
        return b.call(cgutils.get_or_insert_function(b.module, kind, "llvm.readcyclecounter"), [])

    return types.int64(), generate


@inner
def publish(board, items):
    """Open a phase whose arguments are on the board."""
    put(board, DONE, 0)
    phase = (look(board, COUNTER) >> _PHASE) + 1
    put(board, COUNTER, phase << _PHASE | items << _ITEMS)


@inner
def claim(board):
    """The next item of the phase; -1: there is none left."""
    seen = look(board, COUNTER)
    if seen & _MASK >= seen >> _ITEMS & _MASK:
        return -1
    claimed = add(board, COUNTER, 1)
    return claimed & _MASK if claimed & _MASK < claimed >> _ITEMS & _MASK else -1


@inner
def wait(board, items):
    """Until helpers have finished so many."""
    while look(board, DONE) < items:
        pause()
