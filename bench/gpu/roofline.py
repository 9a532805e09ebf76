"""How fast a set of requests could be served at all: the roofline that a throughput figure stands beside.

Pure arithmetic over a model's shape and a machine's measured ceilings. The ideal server prefills every prompt at
the full rate of dense products, then decodes all that still have tokens to come in one step each time, at the floor
of that step: the larger of bytes over bandwidth and operations over rate. It wastes nothing between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.gpu.machine import Machine
from bench.gpu.shapes import ModelShape


@dataclass(frozen=True, slots=True)
class Roofline:
    """Seconds of the two parts; tokens: outputs."""

    prefill_s: float
    decode_s: float
    tokens: int

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / (self.prefill_s + self.decode_s)


def roofline(machine: Machine, shape: ModelShape, requests: Sequence[tuple[int, int]]) -> Roofline:
    """requests: (prompt, output) tokens. The first output token comes with the prefill."""
    operations = sum(shape.prefill_operations(prompt) for prompt, _ in requests)
    prefill = machine.floor(shape.step_weights * 2, operations)
    decode = 0.0
    for step in range(1, max(output for _, output in requests)):
        contexts = [prompt + step for prompt, output in requests if output > step]
        decode += machine.floor(shape.decode_bytes(contexts), shape.decode_operations(contexts))
    return Roofline(prefill, decode, sum(output for _, output in requests))
