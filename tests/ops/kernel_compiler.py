"""Compiles for sm_90, without a GPU, exactly the launches that the host wrappers make.

The wrappers run on meta tensors; what they would launch is recorded with its arguments, specialised as Triton's
launcher does it (16-byte alignment, integers that are 1), compiled, and read back: registers and stack (where ptxas
puts what it spills; no kernel has another use for it) from the cubin's header, matrix instructions from the PTX.
Disassembling takes half a second a kernel: `sass` is for the test that the PTX tells the truth.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton  # type: ignore[import-untyped]
from triton.backends.compiler import GPUTarget  # type: ignore[import-untyped]
from triton.compiler import ASTSource  # type: ignore[import-untyped]
from triton.runtime.jit import JITFunction  # type: ignore[import-untyped]

TARGET = GPUTarget("cuda", 90, 32)
SHARED_PER_SM = 227 * 1024
REGISTERS_PER_SM = 65536
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
_POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.bool: "*i1",
}
_OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")


@dataclass(frozen=True, slots=True)
class Launch:
    """One recorded launch: the kernel, and its arguments by name, options among them."""

    kernel: JITFunction
    arguments: tuple[object, ...]
    options: tuple[tuple[str, object], ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """What a launch compiled to. stack: bytes of a thread in memory, which are spills. hgmma: wgmma instructions,
    which are HGMMA in machine code; hmma: those of mma.sync. cubin: the machine code."""

    name: str
    warps: int
    registers: int
    shared: int
    stack: int
    hgmma: int
    hmma: int
    cubin: bytes = field(repr=False)

    def row(self) -> str:
        return (
            f"{self.name:<44} warps {self.warps:2d}  regs {self.registers:3d}  shared {self.shared:6d}"
            f"  HGMMA {self.hgmma:3d}  HMMA {self.hmma:3d}  stack {self.stack}"
        )


def record(call: Callable[[], object]) -> list[Launch]:
    """The launches of `call`, none of which happens."""
    launches: list[Launch] = []

    def run(self: JITFunction, *args: object, grid: object, warmup: bool, **kwargs: Any) -> None:
        options = tuple((name, kwargs.pop(name)) for name in _OPTIONS if name in kwargs)
        names = [parameter.name for parameter in self.params]
        bound = {**dict(zip(names, args, strict=False)), **kwargs}
        launches.append(Launch(self, tuple(bound[name] for name in names), options))

    original = JITFunction.run
    JITFunction.run = run
    try:
        call()
    finally:
        JITFunction.run = original
    return launches


def machines_of(call: Callable[[], object]) -> list[Machine]:
    """What the launches of `call` compile to, printed; none of them spills or wants more memory than there is."""
    machines = [compile_launch(launch) for launch in record(call)]
    for machine in machines:
        print("\n" + machine.row(), end="")
        assert machine.stack == 0, machine
        assert machine.shared <= SHARED_PER_SM
    return machines


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """A tensor that is nowhere."""
    return torch.empty(shape, dtype=dtype, device="meta")


def compile_launch(launch: Launch) -> Machine:
    """Compile for sm_90 and read the machine code. Raises what Triton and ptxas raise."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], object] = {}
    attributes: dict[tuple[int, ...], list[list[object]]] = {}
    for index, (parameter, value) in enumerate(zip(launch.kernel.params, launch.arguments, strict=True)):
        special = not parameter.do_not_specialize
        if parameter.is_constexpr or (special and isinstance(value, int) and value == 1):
            signature[parameter.name], constants[index,] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = _POINTERS[value.dtype]
            attributes[index,] = [["tt.divisibility", 16]]
        elif isinstance(value, int):
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if special and value % 16 == 0:
                attributes[index,] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "fp32"
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=TARGET, options=dict(launch.options))
    usage = _dump("-res-usage", compiled.asm["cubin"])
    registers, stack = re.findall(r"REG:(\d+) STACK:(\d+)", usage)[0]
    return Machine(
        name=_name(launch),
        warps=compiled.metadata.num_warps,
        registers=int(registers),
        shared=compiled.metadata.shared,
        stack=int(stack),
        hgmma=compiled.asm["ptx"].count("wgmma.mma_async"),
        hmma=compiled.asm["ptx"].count("mma.sync"),
        cubin=compiled.asm["cubin"],
    )


def sass(machine: Machine) -> Counter[str]:
    """How often each instruction is in the machine code, by its name without modifiers."""
    return Counter(re.findall(r"\*/ +(?:@!?U?P\w+ +)?([A-Z][A-Z0-9_]*)", _dump("-sass", machine.cubin)))


def _name(launch: Launch) -> str:
    values = dict(zip((p.name for p in launch.kernel.params), launch.arguments, strict=True))
    wanted = ("DIM", "GROUP", "PAGE", "BLOCK_M", "BLOCK_N", "WINDOW", "SOFT_CAP", "HIDDEN", "BLOCK")
    kept = [f"{name.removeprefix('BLOCK_')}{int(values[name])}" for name in wanted if name in values]
    dtypes = {
        str(v.dtype).removeprefix("torch.") for v in launch.arguments[:1] if isinstance(v, torch.Tensor)
    }
    return " ".join((launch.kernel.__name__, *dtypes, *kept))


def _dump(option: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
