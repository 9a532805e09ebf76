"""B14: our server beside vLLM's CPU build (and, if asked, `transformers serve`) on the same cores and checkpoints.

Sets the others up in virtual environments of their own, finds out which of vLLM's configurations serves it best
here (threads bound or not, bfloat16 or float32), and runs four loads of streamed completions in turns: one stream,
many at once, a shared prefix, long prompts. Lengths are forced and checked, prompts are the same, first tokens and
gaps are pooled over all rounds. Beside the single stream stands a decode step's floor, measured in the same run.

Needs no network once the environments exist. vLLM takes about 6 GB of memory and a minute for each start.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from bench import plot
from bench.checkpoint import SHAPES, checkpoint
from bench.peers.comparison import Comparison, Seen
from bench.peers.contestants import Contestant, ours, transformers_serve, vllm_configurations
from bench.peers.load import LOADS, Load
from bench.peers.setup import TRANSFORMERS, VLLM, cache_folder, ensure
from bench.peers.table import per_token_ms, pooled, table
from bench.report import Report, Result, paired
from bench.stats import percentile

BARS = {"single": 2.0, "concurrent": 1.5, "shared": 2.0, "long": 1.5}
NEAR_FLOOR = 1.3
COLD_START_S, RESIDENT_MB = 3.0, 700.0


def main(argv: list[str]) -> int:
    args = _parse(argv)
    loads = [_scaled(load, args.scale) for load in LOADS if load.name in args.loads]
    python = args.vllm_python or ensure(VLLM, args.environments)
    other = ensure(TRANSFORMERS, args.environments) if args.transformers else None
    if args.setup_only:
        return 0
    report = Report("B14", {key: str(value) for key, value in vars(args).items()})
    for model in args.models:
        folder = checkpoint(SHAPES[model])
        configurations = vllm_configurations(python, folder, args.vllm_kv_gib)
        chosen = args.vllm or _best(model, folder, configurations, loads, report)
        contestants = [ours(folder, tuple(args.ours)), replace(configurations[chosen], name="vllm")]
        if other is not None:
            dtype = "float32" if "float32" in chosen else "bfloat16"
            contestants.append(transformers_serve(other, folder, dtype))
        _compare(model, folder, contestants, chosen, loads, args.rounds, report)
    return report.finish()


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench peers", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["tiny", "small"])
    parser.add_argument("--loads", nargs="+", choices=BARS, default=list(BARS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the requests of each load")
    parser.add_argument("--vllm", metavar="NAME", help="its configuration, instead of trying all four")
    parser.add_argument(
        "--vllm-python", type=Path, help="an interpreter that has vLLM, instead of installing it"
    )
    parser.add_argument("--vllm-kv-gib", type=int, default=4)
    parser.add_argument("--transformers", action="store_true", help="`transformers serve` too")
    parser.add_argument("--ours", nargs="*", default=[], metavar="FLAG", help="more flags of our server")
    parser.add_argument("--environments", type=Path, default=cache_folder(), help="where they are kept")
    parser.add_argument("--setup-only", action="store_true", help="install the environments and end")
    return parser.parse_args(argv)


def _scaled(load: Load, scale: float) -> Load:
    requests = max(1, round(load.requests * scale))
    return replace(load, requests=requests, at_once=min(load.at_once, requests))


def _best(
    model: str,
    folder: Path,
    configurations: dict[str, Contestant],
    loads: Sequence[Load],
    report: Report,
) -> str:
    """The configuration with the highest product of tokens a second over the loads, each run once."""
    scores: dict[str, float] = {}
    tried: dict[str, Seen] = {}
    for name, contestant in configurations.items():
        print(f"{model}: trying {name}", flush=True)
        with Comparison(folder, [contestant], [_scaled(load, 0.5) for load in loads]) as comparison:
            comparison.rounds(1)
        tried[name] = comparison.seen[name]
        runs = [run for each in tried[name].runs.values() for run in each]
        scores[name] = math.exp(statistics.fmean(math.log(run.tokens / run.seconds) for run in runs))
    report.keep(f"{model} vllm configurations", {name: asdict(seen) for name, seen in tried.items()})
    print(f"{model}: " + ", ".join(f"{name} {score:.0f} tokens/s" for name, score in scores.items()))
    return max(scores, key=lambda name: scores[name])


def _compare(
    model: str,
    folder: Path,
    contestants: Sequence[Contestant],
    chosen: str,
    loads: Sequence[Load],
    rounds: int,
    report: Report,
) -> None:
    with Comparison(folder, contestants, loads) as comparison:
        floor = _floor_ms(folder, comparison.log_of("ours"))
        comparison.rounds(rounds)
    seen = comparison.seen
    report.keep(model, {name: asdict(each) for name, each in seen.items()} | {"floor_ms": floor})
    print(f"{model}: vllm is {chosen}; a decode step's floor is {floor:.2f} ms\n{table(model, loads, seen)}")
    for load in loads:
        for name in seen:
            if name != "ours":
                _add_ratios(model, load, (name, seen[name]), seen["ours"], floor, report)
    if model == "tiny":
        cold, resident = seen["ours"].cold_start_s, [seen["ours"].resident_mb]
        report.add(_limit("tiny cold start, s", cold, COLD_START_S))
        report.add(_limit("tiny peak resident, MB", resident, RESIDENT_MB))
    report.charts.append(_chart(model, loads, seen))


def _add_ratios(
    model: str, load: Load, other: tuple[str, Seen], mine: Seen, floor: float, report: Report
) -> None:
    name, theirs = other
    pair, point = ("ours", name), f"{model} {load.name}"
    our_runs, their_runs = mine.runs[load.name], theirs.runs[load.name]
    bar: float | None = BARS[load.name]
    if load.name == "single":
        samples = [[per_token_ms(run) for run in runs] for runs in (our_runs, their_runs)]
        over = statistics.median(samples[0]) / floor
        more = f"{over:.2f}x the floor"
        bar = None if over <= NEAR_FLOOR else bar
    else:
        samples, more = [[run.seconds for run in runs] for runs in (our_runs, their_runs)], ""
    report.add(paired(point, pair, samples[0], samples[1], at_least=bar, more=more))
    for what, ours_ms, theirs_ms in zip(
        ("p95 ttft", "p95 gap"), pooled(our_runs), pooled(their_runs), strict=True
    ):
        ratio = percentile(theirs_ms, 0.95) / percentile(ours_ms, 0.95)
        report.add(Result(f"{point} {what}", "/".join(pair), ratio, ratio, ratio, len(ours_ms), at_least=1.0))


def _limit(point: str, samples: Sequence[float], most: float) -> Result:
    middle = statistics.median(samples)
    return Result(point, "ours", middle, min(samples), max(samples), len(samples), at_most=most)


def _floor_ms(folder: Path, log: str) -> float:
    """Of a decode step of one sequence in the middle of `single`, in the dtypes that our engine logged."""
    import torch

    from bench.workloads.roofline_floor import Machine, Work, work_of_step
    from engine.models.config import load_config

    dtype, weights = (getattr(torch, name) for name in logged_dtypes(log))
    config, keys = load_config(folder), 128 + 64
    kv_bytes = 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize * keys
    work = sum(work_of_step(config, 1, keys, 1, weights.itemsize, kv_bytes).values(), Work())
    return Machine(dtype, torch.get_num_threads()).floor_ms(work, work.bytes)


def logged_dtypes(log: str) -> tuple[str, str]:
    """(of arithmetic and KV, of weights in memory). float32 is what an engine has that was told its dtype."""
    dtype = re.search(r"dtype: (\w+)", log)
    computed = dtype[1] if dtype else "float32"
    weights = re.search(r"weights in memory: (\w+)", log)
    return computed, weights[1] if weights else computed


def _chart(model: str, loads: Sequence[Load], seen: dict[str, Seen]) -> plot.Chart:
    x = list(range(1, len(loads) + 1))
    chart = plot.Chart(
        model, ", ".join(f"{i} {load.name}" for i, load in zip(x, loads, strict=True)), "tokens/s", log=True
    )
    for name, each in seen.items():
        rates = [[run.tokens / run.seconds for run in each.runs[load.name]] for load in loads]
        chart.lines.append(
            plot.Line(name, x, [*map(statistics.median, rates)], [*map(min, rates)], [*map(max, rates)])
        )
    return chart
