"""B0 calibrate: the constants of this machine and model, fitted to measured steps of an engine in this process.

    t_step = a + b * sequences + c * kv_tokens          decode, milliseconds
    t_prefill = p * tokens                              milliseconds

They give the bounds that other workloads print, and the capacity at a latency target: the largest number of
resident tokens whose p90 step still meets it.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from bench.checkpoint import SHAPES, checkpoint
from bench.stats import percentile, write_json
from engine.config import EngineConfig
from engine.core import EngineCore
from engine.runner.model_runner import load_runner
from engine.types import Abort, Generate, SamplingParams

STEPS = 12
"""Decode steps that are timed for each point, after two that are not."""


@dataclass(frozen=True, slots=True)
class Constants:
    """Milliseconds: per step, per sequence, per KV token, per prefilled token."""

    a: float
    b: float
    c: float
    p: float


@dataclass(frozen=True, slots=True)
class Point:
    """`decode_ms`: a step's median; `p90_ms`: its 90th percentile; `prefill_ms`: for all tokens."""

    sequences: int
    context: int
    decode_ms: float
    p90_ms: float
    prefill_ms: float


def measure(model: str, sequences: list[int], contexts: list[int]) -> Iterator[Point]:
    config = EngineConfig(model=model)
    loaded = load_runner(config, lambda stage, fraction: None)
    core = EngineCore(loaded.runner, loaded.ready, config.max_num_batched_tokens, frozenset())
    ids, rng = itertools.count(1), random.Random(0)
    for count, context in itertools.product(sequences, contexts):
        batch = [next(ids) for _ in range(count)]
        for id in batch:
            prompt = tuple(rng.randrange(300, loaded.ready.vocab_size) for _ in range(context))
            core.take(Generate(id, prompt, SamplingParams(10_000, 0, temperature=0.0, ignore_eos=True)))
        prefill: list[float] = []
        decode: list[float] = []
        while len(decode) < STEPS + 2:
            report = core.step()
            decoding = report.num_tokens == count and report.num_running == count
            (decode if decoding and not report.num_waiting else prefill).append(report.step_ms)
        for id in batch:
            core.take(Abort(id))
        core.step()
        kept = decode[2:]
        yield Point(count, context, statistics.median(kept), percentile(kept, 0.9), sum(prefill))


def fit(points: list[Point]) -> Constants:
    """Least squares over the medians."""
    rows = np.array([[1.0, point.sequences, point.sequences * point.context] for point in points])
    a, b, c = np.linalg.lstsq(rows, np.array([point.decode_ms for point in points]), rcond=None)[0]
    p = statistics.median(point.prefill_ms / (point.sequences * point.context) for point in points)
    return Constants(float(a), float(b), float(c), p)


def capacity(points: list[Point], target_ms: float) -> int:
    """Resident tokens of the largest measured load whose p90 step meets the target; 0: none does."""
    return max((p.sequences * p.context for p in points if p.p90_ms <= target_ms), default=0)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench B0", description=__doc__)
    parser.add_argument("--model", choices=SHAPES, default="tiny")
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 512, 1024])
    parser.add_argument("--target", type=float, default=1.5, help="step time over that of one sequence")
    args = parser.parse_args(argv)
    points = list(measure(str(checkpoint(SHAPES[args.model])), args.sequences, args.contexts))
    for point in points:
        print(
            f"{point.sequences:4} x {point.context:5}: step {point.decode_ms:7.2f} ms p90 {point.p90_ms:7.2f} "
            f"prefill {point.prefill_ms:8.1f} ms"
        )
    constants, target_ms = fit(points), args.target * points[0].decode_ms
    path = write_json(
        f"B0-{args.model}", {"points": [asdict(p) for p in points], "constants": asdict(constants)}
    )
    print(
        f"B0 {args.model} a={constants.a:.2f} b={constants.b:.3f} c={constants.c:.5f} p={constants.p:.4f} ms, "
        f"capacity at {target_ms:.1f} ms: {capacity(points, target_ms)} tokens {path}"
    )
    return 0
