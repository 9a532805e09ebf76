"""B10 mixed: chats that are read as they come, beside bursts of map-reduce, on two engines (paper, figure 19).

    capped      every request, chat or not, runs on engines that hold no more than keeps the limit per step
    uncapped    request-level with radix cache, all that fits
    ours        programs; a chat names the limit, and who names none may not break it

The same traffic in all: chats at random, jobs in three bursts. The limit is `--target` times a step of one
sequence; the cap is the most sequences whose p90 step keeps it, by the constants of an engine on one core. Bars:
ours has a chat time per token (p50) at most 1.1 times that of `capped`, and a job time at most 1.1 times that of
`uncapped`.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from dataclasses import replace

from bench import plot
from bench.apps import App
from bench.arrivals import poisson
from bench.compare import Run, Times
from bench.graphs import map_reduce, single
from bench.modes import OURS, PARROT, RADIX
from bench.report import Report, paired
from bench.setup import Setup, add_engines, set_up
from bench.stats import percentile

CHAT, JOB = (64, 24), (128, 32)
"""(prompt, output) tokens of a chat and of a map."""

CHAT_SHARE = 0.3
"""Of the engines' time, that chats alone would take."""

BAR = 1.1


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_engines(parser)
    parser.add_argument("--jobs", type=int, default=12, help="map-reduce applications, in three bursts")
    parser.add_argument("--maps", type=int, default=12)
    parser.add_argument("--target", type=float, default=1.5, help="limit over a step of one sequence")


def main(argv: list[str]) -> int:
    setup = set_up("B10", __doc__, argv, add_flags, threads=1)
    report, args = setup.report(), setup.args
    limit_ms = args.target * setup.calibrated.points[0].decode_ms
    cap = setup.calibrated.sequences(limit_ms, sum(CHAT))
    capped = RADIX.started_with("--max-num-seqs", str(cap), name="capped")
    modes = [OURS, capped, replace(RADIX, name="uncapped"), *([PARROT] if PARROT in setup.modes() else [])]
    print(f"limit {limit_ms:.2f} ms a token; capped at {cap} sequences an engine")
    with setup.compare(modes, "--engines", str(args.engines)) as comparison:
        runs = [traffic(setup, seed, limit_ms) for seed in range(args.seeds + 1)]
        times = {name: each.dropped(1) for name, each in comparison.run(runs).items()}
    add_results(report, args.jobs, times, f"engines={args.engines} limit={limit_ms:.1f}ms cap={cap}")
    report.keep("all", {name: each.raw() for name, each in times.items()})
    return report.finish()


def traffic(setup: Setup, seed: object, limit_ms: float) -> Run:
    """Jobs first in the list. Chats come as long as jobs would take if nothing else ran, and a half longer."""
    args, constants, texts = setup.args, setup.constants, setup.texts("traffic", seed)
    together = args.jobs * args.maps // args.engines
    span_s = 1.5 * constants.call_ms(*JOB, beside=together) / 1e3
    rate = CHAT_SHARE * args.engines * 1e3 / constants.call_ms(*CHAT)
    count = max(16, math.ceil(rate * span_s))
    apps: list[App] = [map_reduce(texts, args.maps, *JOB) for _ in range(args.jobs)]
    apps += [single(texts, *CHAT, tpot_ms=limit_ms) for _ in range(count)]
    jitter = random.Random(f"bursts {seed}")
    bursts = [span_s * (0.25 * (index % 3)) + jitter.uniform(0, 0.02) for index in range(args.jobs)]
    return Run(apps, arrivals_s=[*bursts, *poisson(count / span_s, count, f"chats {seed}")])


def add_results(report: Report, jobs: int, times: dict[str, Times], point: str) -> None:
    """Ratios over the baselines: below one is better, unlike elsewhere."""
    total = {name: range(jobs, len(each.by_run[0])) for name, each in times.items()}
    tokens = {name: [_token_p50(run) for run in each.token_ms] for name, each in times.items()}
    job_s = {name: each.select(range(jobs)).means for name, each in times.items()}
    chat_s = {name: each.select(total[name]) for name, each in times.items()}
    for name in times:
        if name == "ours":
            continue
        for what, seconds, bar in (
            ("chat-token-p50", tokens, "capped"),
            ("job", job_s, "uncapped"),
        ):
            result = paired(
                f"{point} {what}",
                (name, "ours"),
                seconds[name],
                seconds["ours"],
                at_most=BAR if name == bar else None,
                more=f"ours {statistics.median(seconds['ours']):.3g} {name} {statistics.median(seconds[name]):.3g}",
            )
            report.add(replace(result, pair=f"ours/{name}"))
    tails = {name: [percentile(run, 0.99) for run in each.by_run] for name, each in chat_s.items()}
    report.keep("chat_end_p99_s", tails)
    report.charts.append(_chart(tokens, job_s))


def _token_p50(run: list[float | None]) -> float:
    return statistics.median(ms for ms in run if ms is not None)


def _chart(tokens: dict[str, list[float]], job_s: dict[str, list[float]]) -> plot.Chart:
    chart = plot.Chart("B10", "chat ms/token, p50", "job completion, s")
    for name in tokens:
        chart.lines.append(plot.Line(name, tokens[name], job_s[name]))
    return chart
