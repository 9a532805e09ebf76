"""Compiles for sm_90, without a GPU, exactly the launches that the host wrappers make.

The wrappers run on meta tensors; what they would launch is recorded with its arguments, specialised as Triton's
launcher does it (16-byte alignment, integers that are 1), compiled, and read back from the machine code.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton  # type: ignore[import-untyped]
from triton.backends.compiler import GPUTarget  # type: ignore[import-untyped]
from triton.compiler import ASTSource  # type: ignore[import-untyped]
from triton.runtime.jit import JITFunction  # type: ignore[import-untyped]

TARGET = GPUTarget("cuda", 90, 32)
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
    """What a launch compiled to. Bytes, registers of a thread, instructions in the machine code."""

    name: str
    warps: int
    registers: int
    shared: int
    spilled: int
    hgmma: int
    hmma: int

    def row(self) -> str:
        return (
            f"{self.name:<44} warps {self.warps:2d}  regs {self.registers:3d}  shared {self.shared:6d}"
            f"  HGMMA {self.hgmma:3d}  HMMA {self.hmma:3d}  spills {self.spilled}"
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
    return _read(_name(launch), compiled.asm["cubin"], compiled.metadata.shared, compiled.metadata.num_warps)


def _name(launch: Launch) -> str:
    values = dict(zip((p.name for p in launch.kernel.params), launch.arguments, strict=True))
    wanted = ("DIM", "GROUP", "PAGE", "BLOCK_M", "BLOCK_N", "WINDOW", "SOFT_CAP", "HIDDEN", "BLOCK")
    kept = [f"{name.removeprefix('BLOCK_')}{int(values[name])}" for name in wanted if name in values]
    dtypes = {
        str(v.dtype).removeprefix("torch.") for v in launch.arguments[:1] if isinstance(v, torch.Tensor)
    }
    return " ".join((launch.kernel.__name__, *dtypes, *kept))


def _read(name: str, cubin: bytes, shared: int, warps: int) -> Machine:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _dump("-res-usage", file.name)
        code = _dump("-sass", file.name)
    registers = re.search(r"REG:(\d+)", usage)
    assert registers, usage
    return Machine(
        name=name,
        warps=warps,
        registers=int(registers[1]),
        shared=shared,
        spilled=len(re.findall(r"\b(?:LDL|STL)\b", code)),
        hgmma=len(re.findall(r"\bHGMMA\b", code)),
        hmma=len(re.findall(r"\bHMMA\b", code)),
    )


def _dump(option: str, path: str) -> str:
    answer = subprocess.run([str(CUOBJDUMP), option, path], capture_output=True, text=True, check=True)
    return answer.stdout
