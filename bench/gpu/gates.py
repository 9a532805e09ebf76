"""The GPU tests in processes of their own. Behind them every other section's figures can be believed.

Kernel tests share the GPU, on several processes where `pytest-xdist` is there, because most of their time is
compiling; the others load engines, which want the GPU to themselves, and run one after the other. Tests that are
not done in time are no failure: a line says that they are not proven.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from bench.gpu.results import ROOT
from bench.gpu.sections import Bench, SkipSection

KERNELS = ("test_gpu_attention.py", "test_gpu_rowwise.py", "test_gpu_sampling.py")
STOP_S = 15.0
"""For an interrupted pytest to end the servers it started."""


def run(bench: Bench) -> None:
    if not bench.machine.cuda:
        raise SkipSection("tests/gpu needs a CUDA GPU")
    folder = ROOT / "tests" / "gpu"
    kernels = [str(folder / name) for name in KERNELS]
    others = [str(path) for path in sorted(folder.glob("test_*.py")) if path.name not in KERNELS]
    parallel = ["-n", str(max(1, min(8, (os.cpu_count() or 2) // 2)))]
    _gate(bench, "kernel tests", kernels + (parallel if importlib.util.find_spec("xdist") else []))
    _gate(bench, "engine tests", others)


def _gate(bench: Bench, name: str, arguments: Sequence[str]) -> None:
    left = bench.deadline - time.monotonic()
    if not bench.time_for(name, 5.0):
        return
    code, printed = pytest(arguments, left)
    lines = printed.strip().splitlines() or ["pytest printed nothing"]
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            bench.report.note(line)
    if code is None:
        bench.report.note(f"not proven: {name} were not done in {left:.0f} s: {lines[-1]}")
    elif bench.report.gate(name, code == 0, lines[-1]):
        bench.report.note(f"{name}: {lines[-1]}")


def pytest(arguments: Sequence[str], seconds: float) -> tuple[int | None, str]:
    """(exit code, output); None: it was interrupted after so many seconds."""
    # A user's torch may warn of its own, and a plugin that only other tests need may be missing.
    flags = ["-q", "--no-header", "-p", "no:cacheprovider", "-W", "default"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *flags, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        printed, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    else:
        return process.returncode, printed
    try:
        return None, process.communicate(timeout=STOP_S)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return None, process.communicate()[0]
