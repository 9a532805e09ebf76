"""B1 chain-output: a chain of summaries in one exchange, against one exchange a call (paper, figure 11a).

For each output length the network is nothing, scaled to the paper's ratio r of network to step time, and 250 ms.
The step time is what our own mode takes without a network, measured in the same run.
Bound: (1 + r) / (1 + r/N) for N steps. Bar: 0.97 of it.
"""

from __future__ import annotations

import argparse
import statistics

from bench import plot
from bench.bounds import chain as chain_bound
from bench.compare import Comparison
from bench.graphs import chain
from bench.report import Report
from bench.setup import SCALED, Setup, add_networks, report_pairs, round_trip_s, set_up

RATIOS = {25: 0.33, 50: 0.19, 75: 0.13, 100: 0.10}
"""Output length in tokens to network time over step time, as in the paper."""

BAR = 0.97


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--outputs", type=int, nargs="+", default=sorted(RATIOS), choices=sorted(RATIOS))
    add_networks(parser)


def main(argv: list[str]) -> int:
    setup = set_up("B1", __doc__, argv, _flags)
    report, args = setup.report(), setup.args
    with setup.compare(setup.modes()) as comparison:
        for output in args.outputs:
            warm = comparison.run(setup.runs(f"warm {output}", chain, args.steps, args.chunk, output)[:3])
            step_s = statistics.median(warm["ours"].means[1:]) / args.steps
            for network in args.networks:
                run_point(setup, report, comparison, (args.chunk, output), network, step_s, RATIOS[output])
    report.charts.append(chart(report, "output tokens", "out="))
    return report.finish()


def run_point(
    setup: Setup,
    report: Report,
    comparison: Comparison,
    size: tuple[int, int],
    network: str,
    step_s: float,
    ratio: float,
) -> None:
    """One (chunk, output) on one network."""
    steps, (chunk, output) = setup.args.steps, size
    round_trip = round_trip_s(network, ratio * step_s)
    r = round_trip / step_s
    point = f"chunk={chunk} out={output} net={network}{'' if network == SCALED else 'ms'} r={r:.2f}"
    runs = setup.runs(point, chain, steps, chunk, output, round_trip_s=round_trip)
    times = {name: each.dropped(1) for name, each in comparison.run(runs).items()}
    report_pairs(report, point, times, bound=chain_bound(r, steps), share=BAR)


def chart(report: Report, x: str, prefix: str) -> plot.Chart:
    """Ours over radix against the bound, by the number after `prefix` in a point's name, a line a network."""
    chart = plot.Chart(report.title, x, "request-level + radix / ours")
    results = [result for result in report.results if result.pair == "ours/radix"]
    for network in sorted({_part(result.point, "net=") for result in results}):
        of = [result for result in results if _part(result.point, "net=") == network]
        xs = [float(_part(result.point, prefix)) for result in of]
        chart.lines.append(
            plot.Line(
                f"network {network}",
                xs,
                [result.ratio for result in of],
                [result.low for result in of],
                [result.high for result in of],
            )
        )
        chart.lines.append(
            plot.Line(f"bound, {network}", xs, [result.bound or 1.0 for result in of], dashed=True)
        )
    return chart


def _part(point: str, prefix: str) -> str:
    return next(word.removeprefix(prefix) for word in point.split() if word.startswith(prefix))
