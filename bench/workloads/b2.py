"""B2 chain-chunk: as B1, over the size of the chunks (paper, figure 11b).

The network is nothing, scaled to the paper's 0.19 (output 50), and 250 ms. Bound and bar as B1's.
"""

from __future__ import annotations

import argparse
import statistics

from bench.graphs import chain
from bench.setup import add_networks, set_up
from bench.workloads.b1 import RATIOS, chart, run_point


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--chunks", type=int, nargs="+", default=[64, 128, 192, 256])
    parser.add_argument("--output", type=int, default=50, choices=sorted(RATIOS))
    add_networks(parser)


def main(argv: list[str]) -> int:
    setup = set_up("B2", __doc__, argv, _flags)
    report, args = setup.report(), setup.args
    with setup.compare(setup.modes()) as comparison:
        for chunk in args.chunks:
            warm = comparison.run(setup.runs(f"warm {chunk}", chain, args.steps, chunk, args.output)[:3])
            step_s = statistics.median(warm["ours"].means[1:]) / args.steps
            for network in args.networks:
                size = (chunk, args.output)
                run_point(setup, report, comparison, size, network, step_s, RATIOS[args.output])
    report.charts.append(chart(report, "chunk tokens", "chunk="))
    return report.finish()
