"""B13 duplicates: a share of the calls of a map-reduce, or of many agents, are the same call again.

Ours with call dedup against ours without, on maps alone (the reduce is the same work in both and is left out).
The sizes are those of B5: what dedup saves is decoding, as a prompt that comes again is in the cache anyway.
Bound: 1 / (1 - d), bar: within 15 % of it. At d = 0 it shows what looking up costs.
"""

from __future__ import annotations

import argparse

from bench import plot
from bench.bounds import duplicates
from bench.graphs import duplicated
from bench.modes import OURS
from bench.report import paired
from bench.setup import set_up

TOLERANCE = 0.15


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=int, default=64)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--output", type=int, default=64)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.25, 0.5, 0.75])


def main(argv: list[str]) -> int:
    setup = set_up("B13", __doc__, argv, _flags)
    report, args = setup.report(), setup.args
    without = OURS.without("call-dedup")
    with setup.compare([OURS, without], "--max-num-seqs", str(args.slots)) as comparison:
        for share in args.shares:
            point = f"d={share:.2f}"
            runs = setup.runs(point, duplicated, args.calls, share, args.chunk, args.output)
            times = {name: each.dropped(1) for name, each in comparison.run(runs).items()}
            bound = duplicates(share)
            result = paired(
                point,
                ("with", "without"),
                times["ours"].means,
                times["without"].means,
                bound=bound,
                at_least=(1 - TOLERANCE) * bound,
            )
            report.add(result)
            report.keep(point, {name: each.raw() for name, each in times.items()})
    ratios = [result.ratio for result in report.results]
    chart = plot.Chart("B13", "share of duplicate calls", "without dedup / with")
    chart.lines.append(plot.Line("measured", args.shares, ratios))
    chart.lines.append(plot.Line("bound", args.shares, [duplicates(d) for d in args.shares], dashed=True))
    report.charts.append(chart)
    return report.finish()
