"""B3 chain-background: chains beside requests of others that nearly fill the engine (paper, figure 12a).

The background's rate is a share of the most that mode `radix` completes here, measured first; its arrivals are
seeded and the same in every mode, as are the chains'. A chain's calls come back to the queue in request-level
serving; in ours they keep the place of their application. Bar: chains 1.8 times faster at a share of 0.9, and the
background's p99 at most 1.5 times radix's.
"""

from __future__ import annotations

import argparse
import statistics

from bench import plot
from bench.apps import App
from bench.arrivals import evenly, poisson
from bench.bounds import Constants
from bench.compare import Comparison, Run, Times
from bench.graphs import chain, single
from bench.modes import RADIX
from bench.report import Report, paired
from bench.setup import SCALED, Setup, add_networks, round_trip_s, set_up
from bench.stats import percentile

RATIO = 0.19
"""Network over step time, the paper's at an output of 50."""

BAR, BACKGROUND_BAR = 1.8, 1.5


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shares", type=float, nargs="+", default=[0.9], help="of radix's maximum")
    parser.add_argument("--arrivals", type=int, default=500)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--output", type=int, default=16)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--chains", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--chunk", type=int, default=64)
    add_networks(parser, ("0", SCALED))


def main(argv: list[str]) -> int:
    setup = set_up("B3", __doc__, argv, _flags)
    report, args = setup.report(), setup.args
    modes = setup.modes()
    if RADIX not in modes:
        modes.append(RADIX)
    with setup.compare(modes, "--max-num-seqs", str(args.slots)) as comparison:
        most = _maximum(setup, comparison)
        report.keep("radix_maximum_per_s", most)
        print(f"radix completes {most:.1f} background requests a second")
        for network in args.networks:
            for share in args.shares:
                point = f"share={share:.2f} net={network}{'' if network == SCALED else 'ms'}"
                times = _run(setup, comparison, point, network, share * most)
                _add(report, args.chains, point, times, share)
    report.charts.append(_chart(report))
    return report.finish()


def _maximum(setup: Setup, comparison: Comparison) -> float:
    """Background requests a second that radix completes when there are always more; the median of three."""
    args, rates = setup.args, []
    count = max(40, args.arrivals // 5)
    for number in range(4):
        texts = setup.texts("maximum", number)
        run = Run([single(texts, args.prompt, args.output) for _ in range(count)])
        rates.append(count / comparison.only(RADIX, run).last[0])
    return float(statistics.median(rates[1:]))


def _run(setup: Setup, comparison: Comparison, point: str, network: str, rate: float) -> dict[str, Times]:
    """Chains first, then the background; what warms is short."""
    args = setup.args
    trip = round_trip_s(network, RATIO * _step_s(setup.constants, args))
    runs = []
    for seed in range(args.seeds + 1):
        texts, count = setup.texts(point, seed), args.arrivals if seed else args.slots
        arrivals = poisson(rate, count, f"{point} {seed}")
        apps: list[App] = [chain(texts, args.steps, args.chunk, args.output) for _ in range(args.chains)]
        apps += [single(texts, args.prompt, args.output) for _ in range(count)]
        runs.append(Run(apps, trip, seed, [*evenly(args.chains, arrivals[-1] * 0.75), *arrivals]))
    return {name: times.dropped(1) for name, times in comparison.run(runs).items()}


def _step_s(constants: Constants, args: argparse.Namespace) -> float:
    output = int(args.output)
    return constants.call_ms(int(args.chunk) + output, output) / 1e3


def _add(report: Report, chains: int, point: str, times: dict[str, Times], share: float) -> None:
    total = len(times["ours"].by_run[0])
    chain_times = {name: each.select(range(chains)) for name, each in times.items()}
    background = {name: each.select(range(chains, total)) for name, each in times.items()}
    tail = {name: [percentile(run, 0.99) for run in each.by_run] for name, each in background.items()}
    for name in times:
        if name == "ours":
            continue
        stated = name == "radix" and share == 0.9
        ours, theirs = chain_times["ours"].means, chain_times[name].means
        report.add(paired(point, ("ours", name), ours, theirs, at_least=BAR if stated else None))
        slower = paired(
            f"{point} background-p99",
            (name, "ours"),
            tail[name],
            tail["ours"],
            at_most=BACKGROUND_BAR if stated else None,
        )
        report.add(slower)
    report.keep(point, {name: each.raw() for name, each in times.items()})


def _chart(report: Report) -> plot.Chart:
    chart = plot.Chart("B3", "background, share of radix's maximum", "radix / ours, chains")
    for network in {
        result.point.split("net=")[1] for result in report.results if "background" not in result.point
    }:
        of = [r for r in report.results if r.point.endswith(f"net={network}") and r.pair == "ours/radix"]
        x = [float(result.point.split()[0].removeprefix("share=")) for result in of]
        ratios = [result.ratio for result in of]
        chart.lines.append(plot.Line(network, x, ratios, [r.low for r in of], [r.high for r in of]))
    return chart
