"""B4 chain-many: many chains at once on few slots: application order against request order (paper, figure 12b).

Without a network only the order counts; with one, waiting for it is order's too. Bound for identical chains:
2R / (R + 1), R = apps over slots (request order ends all chains in its last round, so it takes many steps a chain
to come near it); bar: 0.92 of it at 24 apps on 4 slots, and the last application no later.
`--uncapped` adds the point where all applications have slots.
"""

from __future__ import annotations

import argparse
import itertools
import statistics

from bench import plot
from bench.bounds import order
from bench.compare import Times
from bench.graphs import chain
from bench.report import Report
from bench.setup import SCALED, Setup, add_networks, report_pairs, round_trip_s, set_up

BAR = 0.92

NO_LATER = 0.97
"""The last application's end, the other's over ours: within the noise of a few percent."""

RATIO = 0.33
"""Network over step time where it is scaled."""


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--apps", type=int, nargs="+", default=[6, 12, 24])
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--output", type=int, default=16)
    add_networks(parser, ("0",))
    parser.add_argument("--uncapped", action=argparse.BooleanOptionalAction, default=True)


def main(argv: list[str]) -> int:
    setup = set_up("B4", __doc__, argv, _flags)
    report, args = setup.report(), setup.args
    measured = _measure(setup, report, args.apps, args.slots)
    if args.uncapped:
        _measure(setup, report, args.apps[-1:], max(args.apps))
    report.charts.append(_chart(measured))
    return report.finish()


def _measure(setup: Setup, report: Report, counts: list[int], slots: int) -> dict[int, dict[str, Times]]:
    args = setup.args
    measured: dict[int, dict[str, Times]] = {}
    with setup.compare(setup.modes(), "--max-num-seqs", str(slots)) as comparison:
        for count, network in itertools.product(counts, args.networks):
            point = f"apps={count} slots={slots} net={network}{'' if network == SCALED else 'ms'}"
            trip = round_trip_s(network, RATIO * setup.constants.call_ms(args.chunk, args.output) / 1e3)
            runs = setup.runs(
                point, chain, args.steps, args.chunk, args.output, copies=count, round_trip_s=trip
            )
            times = {name: each.dropped(1) for name, each in comparison.run(runs).items()}
            measured.setdefault(count, times)
            last = {name: _last(times["ours"], each) for name, each in times.items()}
            bound = None if trip else order(count, slots)
            at_least = BAR * bound if bound and count >= 6 * slots else None
            report_pairs(
                report,
                point,
                times,
                bound=bound,
                at_least=at_least,
                also=at_least is None or last.get("radix", 1.0) >= NO_LATER,
                more={name: f"last {ratio:.2f}" for name, ratio in last.items()},
            )
    return measured


def _last(ours: Times, other: Times) -> float:
    """How much later the other's last application ends."""
    return statistics.median(b / a for a, b in zip(ours.last, other.last, strict=True))


def _chart(measured: dict[int, dict[str, Times]]) -> plot.Chart:
    chart = plot.Chart("B4", "applications at once", "mean completion, s")
    for name in next(iter(measured.values())):
        means = [measured[count][name].means for count in measured]
        chart.lines.append(
            plot.Line(
                name,
                list(measured),
                [statistics.fmean(each) for each in means],
                [min(each) for each in means],
                [max(each) for each in means],
            )
        )
    return chart
