"""B8 gpts: four assistants with long instructions each, users' questions at random, two engines (paper, figure 17).

What counts is the request rate that each mode takes at the same normalised latency (milliseconds from arrival to
end for a token of output, the mean). The limit is `--limit` times what a request takes alone. Bars: 3 times the
rate of `none`, 1.5 times that of `radix`, which goes to the engine with the shortest queue.

An engine's KV pool holds 1.5 unshared copies of the longest request (`--pool`), which is just what all four
instructions take: so an engine that gets every kind of request keeps losing some of them, and one that gets some
kinds keeps those. That is what affinity is for. With much less (1.1) no engine holds the longest beside others, and
all modes come nearer to `none`; with more (2.25) every engine holds all, and sharing alone is measured.

Each mode's rate is looked for by doubling and halving, with the same seeded pattern of arrivals at every rate.
Texts are compared where modes were measured at the same rate: at the start of every search.
"""

from __future__ import annotations

import argparse
import math
import random

from bench import plot
from bench.apps import App
from bench.arrivals import Point, find_rate, poisson
from bench.compare import Comparison, Run
from bench.graphs import assistant
from bench.modes import Mode
from bench.report import paired
from bench.setup import Setup, add_engines, set_up

INSTRUCTIONS = (744, 112, 169, 203)
OUTPUTS = (70, 9, 63, 42)
QUERY = 8
MOST = 1000
BARS = {"none": 3.0, "radix": 1.5}


def _flags(parser: argparse.ArgumentParser) -> None:
    add_engines(parser)
    parser.add_argument(
        "--pool", type=float, default=1.5, help="tokens of all engines' KV over all instructions"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of all lengths; 10 is about the paper's")
    parser.add_argument("--requests", type=int, default=60, help="at each rate, at least")
    parser.add_argument("--seconds", type=float, default=4.0, help="that requests come for, at least")
    parser.add_argument("--limit", type=float, default=3.0, help="over the normalised latency of one alone")
    parser.add_argument("--halvings", type=int, default=3, help="of a bracket of a factor of two")


def main(argv: list[str]) -> int:
    setup = set_up("B8", __doc__, argv, _flags, threads=1)
    report, args, modes = setup.report(), setup.args, setup.modes()
    rates: dict[str, list[float]] = {mode.name: [] for mode in modes}
    points: dict[str, list[list[Point]]] = {mode.name: [] for mode in modes}
    start = args.engines * 1e3 / _alone_ms(setup)
    limit = args.limit * _normalised_alone(setup)
    sizes = lengths(args.scale)
    longest = sum(max(size) for size in zip(*sizes, strict=True)) + QUERY
    memory = setup.kv_memory(int(max(args.pool, 1.0) * longest))
    flags = ("--engines", str(args.engines), *memory, "--max-model-len", str(longest))
    with setup.compare(modes, *flags) as comparison:
        comparison.run([_run(setup, "warm", start)])
        for seed in range(args.seeds):
            comparison.run([_run(setup, f"same {seed}", start)])
            for mode in modes:
                rate, measured = _find(setup, comparison, mode, seed, limit, start)
                rates[mode.name].append(rate)
                points[mode.name].append(measured)
                print(
                    f"  seed {seed} {mode.name:7} {rate:6.2f} requests/s within {limit:.1f} ms/token",
                    flush=True,
                )
    report.keep("rates", rates)
    report.keep("points", points)
    for name in rates:
        if name != "ours":
            report.add(
                paired("", ("ours", name), rates[name], rates["ours"], at_least=BARS.get(name), more="rate")
            )
    report.charts.append(_chart(points, limit))
    return report.finish()


def lengths(scale: float) -> list[tuple[int, int]]:
    """(instructions, output) of each assistant."""
    return [(int(size * scale), int(out * scale)) for size, out in zip(INSTRUCTIONS, OUTPUTS, strict=True)]


def requests(setup: Setup, seed: object, count: int) -> list[App]:
    """The instructions are the same for all seeds; users and their questions are not."""
    sizes = lengths(setup.args.scale)
    instructions = [setup.texts("instructions", number).make(size) for number, (size, _) in enumerate(sizes)]
    texts = setup.texts("questions", seed)
    kinds = [index % len(INSTRUCTIONS) for index in range(count)]
    random.Random(f"kinds {seed}").shuffle(kinds)
    return [assistant(texts, instructions[kind], QUERY, sizes[kind][1]) for kind in kinds]


def normalised_ms(apps: list[App], seconds: list[float]) -> float:
    """The mean over requests of milliseconds for a token of output."""
    return sum(s * 1e3 / app.steps[0].max_tokens for app, s in zip(apps, seconds, strict=True)) / len(apps)


def _find(
    setup: Setup, comparison: Comparison, mode: Mode, seed: int, limit: float, start: float
) -> tuple[float, list[Point]]:
    probes = iter(range(100))

    def latency(rate: float) -> float:
        run = _run(setup, f"{seed} {next(probes)}", rate, pattern=seed)
        return normalised_ms(list(run.apps), comparison.only(mode, run).by_run[0])

    rate, points = find_rate(latency, limit, start, halvings=setup.args.halvings)
    if math.isnan(rate) and mode.name != "ours":
        rate = min(points)[0]  # it is below that; so the ratio is at least what comes out
    return rate, points


def _run(setup: Setup, seed: str, rate: float, pattern: int = 0) -> Run:
    count = min(MOST, max(setup.args.requests, int(rate * setup.args.seconds)))
    apps = requests(setup, seed, count)
    return Run(apps, 0.0, 0, poisson(rate, len(apps), f"B8 {pattern}"))


def _alone_ms(setup: Setup) -> float:
    sizes = lengths(setup.args.scale)
    return sum(setup.constants.call_ms(size + QUERY, out) for size, out in sizes) / len(sizes)


def _normalised_alone(setup: Setup) -> float:
    sizes = lengths(setup.args.scale)
    return sum(setup.constants.call_ms(size + QUERY, out) / out for size, out in sizes) / len(sizes)


def _chart(points: dict[str, list[list[Point]]], limit: float) -> plot.Chart:
    chart = plot.Chart("B8", "requests/s", "normalised latency, ms/token", log=True)
    for name, runs in points.items():
        ordered = sorted(point for run in runs for point in run)
        chart.lines.append(plot.Line(name, [rate for rate, _ in ordered], [ms for _, ms in ordered]))
    ends = [min(p[0] for p in ordered), max(p[0] for p in ordered)]
    chart.lines.append(plot.Line("limit", ends, [limit, limit], dashed=True))
    return chart
