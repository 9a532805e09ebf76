"""B0 calibrate: the constants of this machine and model, fitted to measured steps of an engine in this process.

    t_step = a + b * sequences + c * kv_tokens          decode, milliseconds
    t_prefill = p * tokens                              milliseconds

They give the bounds that other workloads print, and the capacity at a latency target: the largest number of
resident tokens whose p90 step still meets it. They are kept for half a day; this measures them anew.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Iterator

import msgspec
import numpy as np

from bench import plot
from bench.bounds import Constants
from bench.checkpoint import SHAPES, checkpoint
from bench.constants import Calibrated, Point, calibrated, keep
from bench.report import Report
from bench.stats import percentile
from engine.config import EngineConfig
from engine.core import EngineCore
from engine.runner.load import load_runner
from engine.runner.loaded import LoadedRunner
from engine.types import Abort, Generate, SamplingParams

STEPS = 12
"""Decode steps that are timed for each point, after two that are not."""

SEQUENCES = [1, 2, 4, 8, 16, 32]
CONTEXTS = [64, 256, 1024]


def load(model: str, threads: int | None = None) -> LoadedRunner:
    return load_runner(EngineConfig(model=model, num_threads=threads), lambda stage, fraction: None)


def measure(loaded: LoadedRunner, sequences: list[int], contexts: list[int]) -> Iterator[Point]:
    core = EngineCore(loaded.runner, loaded.ready, frozenset())
    room = loaded.ready.num_blocks * loaded.ready.block_size
    ids, rng = itertools.count(1), random.Random(0)
    for count, context in itertools.product(sequences, contexts):
        if count * (context + 2 * loaded.ready.block_size) <= room:
            yield _point(core, [next(ids) for _ in range(count)], context, rng, loaded.ready.vocab_size)


def _point(core: EngineCore, batch: list[int], context: int, rng: random.Random, vocab: int) -> Point:
    for id in batch:
        prompt = tuple(rng.randrange(300, vocab) for _ in range(context))
        core.take(Generate(id, prompt, SamplingParams(10_000, 0, temperature=0.0, ignore_eos=True)))
    prefill: list[float] = []
    decode: list[float] = []
    while len(decode) < STEPS + 2:
        report = core.step()
        decoding = report.num_tokens == len(batch) and report.num_running == len(batch)
        (decode if decoding and not report.num_waiting else prefill).append(report.step_ms)
    for id in batch:
        core.take(Abort(id))
    core.step()
    timed = decode[2:]
    return Point(len(batch), context, statistics.median(timed), percentile(timed, 0.9), sum(prefill))


def fit(points: list[Point], kv_bytes: int = 0) -> Constants:
    """Least squares of relative errors over the medians, so that short steps count as much as long ones."""
    decode = np.array([point.decode_ms for point in points])
    rows = np.array([[1.0, point.sequences, point.sequences * point.context] for point in points])
    a, b, c = np.linalg.lstsq(rows / decode[:, None], np.ones(len(points)), rcond=None)[0]
    p = statistics.median(point.prefill_ms / (point.sequences * point.context) for point in points)
    return Constants(float(a), max(float(b), 0.0), max(float(c), 0.0), p, kv_bytes)


def constants_of(model: str, threads: int | None = None) -> Calibrated:
    """Of the checkpoint of a shape: kept ones where they are fresh. `threads`: of the engine; None: all cores."""
    return calibrated(model, lambda: _measured(model, threads, SEQUENCES, CONTEXTS), threads)


def _measured(model: str, threads: int | None, sequences: list[int], contexts: list[int]) -> Calibrated:
    loaded = load(str(checkpoint(SHAPES[model])), threads)
    ready = loaded.ready
    points = tuple(measure(loaded, sequences, contexts))
    kv_bytes = loaded.ready.kv_cache_bytes // ((ready.num_blocks + 1) * ready.block_size)
    return Calibrated(fit(list(points), kv_bytes), points, time.time())


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench B0", description=__doc__)
    parser.add_argument("--model", choices=SHAPES, default="tiny")
    parser.add_argument("--sequences", type=int, nargs="+", default=SEQUENCES)
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS)
    parser.add_argument("--threads", type=int, help="of the engine; 1 is what each of two engines has here")
    parser.add_argument("--target", type=float, default=1.5, help="step time over that of one sequence")
    args = parser.parse_args(argv)
    found = keep(args.model, _measured(args.model, args.threads, args.sequences, args.contexts), args.threads)
    for point in found.points:
        print(
            f"{point.sequences:4} x {point.context:5}: step {point.decode_ms:7.2f} ms p90 {point.p90_ms:7.2f} "
            f"prefill {point.prefill_ms:8.1f} ms"
        )
    report = Report("B0", vars(args), found.constants)
    report.keep("points", msgspec.to_builtins(found.points))
    report.charts.append(_chart(found))
    report.finish()
    target_ms = args.target * found.points[0].decode_ms
    print(
        f"B0 {args.model} {found.constants}, capacity at {target_ms:.1f} ms: {found.capacity(target_ms)} "
        f"tokens n={len(found.points)} ok"
    )
    return 0


def _chart(found: Calibrated) -> plot.Chart:
    chart = plot.Chart("a decode step", "sequences", "ms")
    for context in sorted({point.context for point in found.points}):
        points = [point for point in found.points if point.context == context]
        x = [point.sequences for point in points]
        chart.lines.append(plot.Line(f"{context} tokens each", x, [point.decode_ms for point in points]))
        fitted = [found.constants.step_ms(n, n * context) for n in x]
        chart.lines.append(plot.Line(f"fitted, {context}", x, fitted, dashed=True))
    return chart
