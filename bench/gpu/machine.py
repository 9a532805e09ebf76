"""Where the kit runs: the device, its measured ceilings, and how a call is timed on it.

Responsible for: bytes and operations a second as this machine gives them (a large copy counting bytes read and
written, a large product on random data), and for timing without launch gaps: on a GPU calls are captured into a
graph whose replays are timed with events. Leaves to others: how many bytes and operations a call needs.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version

import torch

from bench.gpu.report import Constants

Call = Callable[[], object]

_LEAST_REPLAY_S, _MOST_COPIES = 4e-4, 64
"""A graph is made so long that starting it does not count."""


@dataclass(frozen=True, slots=True)
class Machine:
    """bandwidth: bytes a second; rate: floating-point operations a second, of dense products in `dtype`."""

    device: torch.device
    dtype: torch.dtype  # of kernels' operands
    small: bool
    repeats: int
    bandwidth: float
    rate: float

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def floor(self, num_bytes: float, operations: float = 0.0) -> float:
        """Seconds under which no kernel gets that moves so many bytes and does so many operations."""
        return max(num_bytes / self.bandwidth, operations / self.rate)

    def seconds(self, *calls: Call) -> float:
        """Of one call, the median. Several calls do the same on other data, so that no cache holds it.

        Without a GPU, where times mean nothing, it is called once.
        """
        if not self.cuda:
            return _wall(calls) / len(calls)
        for call in calls:
            call()
        once = self._replayed(calls, 1, 3)
        copies = min(_MOST_COPIES, math.ceil(_LEAST_REPLAY_S / max(once, 1e-9)))
        return self._replayed(calls, copies, self.repeats) / len(calls) / copies

    def error(self, result: torch.Tensor, expected: torch.Tensor) -> float:
        """||result - expected|| / ||expected||; NaN or infinite when something was not written."""
        wide = expected.double()
        return float((result.double() - wide).norm() / wide.norm())

    def close(self, result: torch.Tensor, expected: torch.Tensor) -> bool:
        """Within what this dtype's rounding allows: 1e-2 for bf16, 1e-3 for fp16. NaN is never close."""
        return self.error(result, expected) < (1e-2 if result.dtype == torch.bfloat16 else 2e-3)

    def randn(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.randn(shape, device=self.device, dtype=torch.float32).to(dtype or self.dtype)

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def constants(self) -> Constants:
        name = torch.cuda.get_device_name(self.device) if self.cuda else "cpu"
        return Constants(
            name,
            str(self.dtype).removeprefix("torch."),
            self.bandwidth / 1e9,
            self.rate / 1e12,
            str(torch.__version__),
            _triton_version(),
        )

    def _replayed(self, calls: tuple[Call, ...], copies: int, repeats: int) -> float:
        """Seconds of a graph that holds so many copies of the calls, the median of its replays."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            for call in calls * copies:
                call()
        graph.replay()
        return statistics.median(_by_events(graph.replay) for _ in range(repeats))


def measure(small: bool) -> Machine:
    """This machine with its ceilings: takes about a second."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float16  # Triton's interpreter has no bf16
    bare = Machine(device, dtype, small, 20, 1.0, 1.0)
    bandwidth, rate = _ceilings(bare)
    if bare.cuda:
        torch.cuda.empty_cache()  # it is for engines, and for the processes that sections start
    return replace(bare, bandwidth=bandwidth, rate=rate)


def _ceilings(machine: Machine) -> tuple[float, float]:
    """Bytes a second of a large copy, operations a second of a large product in bf16."""
    elements = 2**22 if machine.small else 2**30
    source = torch.empty(elements, device=machine.device, dtype=torch.bfloat16).normal_()
    target = torch.zeros_like(source)
    bandwidth = 2 * source.nbytes / machine.seconds(lambda: target.copy_(source))
    size = 512 if machine.small else 8192
    a, b = (machine.randn(size, size, dtype=torch.bfloat16) for _ in range(2))
    a @ b
    return bandwidth, 2 * size**3 / machine.seconds(lambda: a @ b)


def _wall(calls: tuple[Call, ...]) -> float:
    begun = time.perf_counter()
    for call in calls:
        call()
    return time.perf_counter() - begun


def _by_events(call: Call) -> float:
    begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _triton_version() -> str:
    try:
        return version("triton")
    except PackageNotFoundError:
        return "none"
