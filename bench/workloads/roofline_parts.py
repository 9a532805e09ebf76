"""A stopwatch on the parts of a step: for as long as `watched` holds, calls into engine and model are timed.

Watching costs about 0.3 us a call, so a step's own time is measured without it. Where a step is one compiled call,
its seconds are split by the CPU's cycles that it counted itself; the activation is in `gate_up` there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F

import engine.layout
from engine.core import EngineCore
from engine.models.decoder import Decoder
from engine.runner.model_runner import ModelRunner
from engine.runner.torch_forward import TorchForward
from ops.cpu_attention import AttentionStep
from ops.linear import Linear

PARTS = (
    "schedule",
    "plan",
    "inputs",
    "prepare",
    "embed",
    "norm",
    "qkv",
    "rope+kv",
    "attention",
    "output",
    "gate_up",
    "activation",
    "down",
    "head",
    "sampling",
    "commit",
    "report",
)
"""In the order of a step. What is in none of them, Python between the calls above all, is `rest`."""


class Parts:
    """Owns the seconds of each part. A part inside another counts for itself alone."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._inner = [0.0]

    def clear(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)

    def add_shares(self, spent: float, shares: Mapping[str, int]) -> None:
        """Seconds of one call that were those of many parts."""
        whole = max(1, sum(shares.values()))
        for part, share in shares.items():
            self.seconds[part] += spent * share / whole
        self._inner[-1] += spent

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            begin = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                spent = time.perf_counter() - begin
                self.seconds[part] += spent - self._inner.pop()
                self._inner[-1] += spent

        return run


class _TimedLinear:
    def __init__(self, parts: Parts, part: str, linear: Linear) -> None:
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._multiply, self._add = parts.timed(part, linear), parts.timed(part, linear.add)
        self.parts = parts.timed(part, linear.parts)

    def __call__(self, x_RK: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self._multiply(x_RK)
        return out

    def add(self, x_RK: torch.Tensor, residual_RN: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self._add(x_RK, residual_RN)
        return out


@contextmanager
def watched(core: EngineCore, runner: ModelRunner) -> Iterator[Parts]:
    """Times everything that runs inside, in this process; nothing else of it may run meanwhile."""
    parts = Parts()
    with ExitStack() as stack:

        def replace(owner: Any, name: str, new: Any) -> None:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, new)

        def watch(owner: Any, name: str, part: str) -> None:
            replace(owner, name, parts.timed(part, getattr(owner, name)))

        def watch_linear(owner: Any, name: str, part: str) -> None:
            replace(owner, name, _TimedLinear(parts, part, getattr(owner, name)))

        watch(core.scheduler, "schedule", "schedule")
        watch(core.scheduler, "commit", "commit")
        watch(core.scheduler, "observe", "commit")
        watch(core, "_report", "report")
        watch(engine.layout, "build_plan", "plan")
        watch(runner, "_begin", "inputs")
        watch(runner._sampler, "sample", "sampling")
        if isinstance(runner._forward, TorchForward):
            _watch_forward(runner._forward, watch, watch_linear)
        elif hasattr(runner._forward, "clock"):  # `CompiledForward`, whose module needs numba
            replace(runner._forward, "compute", _timed_compiled(parts, runner._forward))
        yield parts


def _timed_compiled(parts: Parts, forward: Any) -> Callable[..., Any]:
    compute = forward.compute

    def run(*args: Any) -> Any:
        before, begin = forward.clock, time.perf_counter()
        result = compute(*args)
        parts.add_shares(
            time.perf_counter() - begin, {name: end - before[name] for name, end in forward.clock.items()}
        )
        return result

    return run


_Watch = Callable[[Any, str, str], None]


def _watch_forward(forward: TorchForward, watch: _Watch, watch_linear: _Watch) -> None:
    watch(forward._prepared, "at", "prepare")
    watch(F, "embedding", "embed")
    watch(AttentionStep, "run", "attention")
    _watch_model(forward._decoder, watch, watch_linear)


def _watch_model(decoder: Decoder, watch: _Watch, watch_linear: _Watch) -> None:
    for layer in decoder._layers:
        watch(layer, "input_norm", "norm")
        watch(layer, "post_norm", "norm")
        watch_linear(layer.attention, "_qkv", "qkv")
        watch(layer.attention, "_rope_and_write_kv", "rope+kv")
        watch(layer.attention, "_rope_and_write_kv", "rope+kv")
        watch_linear(layer.attention, "_output", "output")
        watch_linear(layer.mlp, "_gate_up", "gate_up")
        watch_linear(layer.mlp, "_down", "down")
        watch(layer.mlp, "_activation", "activation")
    watch(decoder, "_norm", "norm")
    watch_linear(decoder, "_head", "head")
