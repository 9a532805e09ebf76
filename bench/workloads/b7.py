"""B7 copilot-length: as B6, over the length of the outputs (paper, figure 16).

The longer the outputs, the less of a context is shared.
"""

from __future__ import annotations

import argparse

from bench import plot
from bench.copilot import Batch
from bench.workloads.b6 import add_flags, run


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench B7", description=__doc__)
    add_flags(parser)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--prefix", type=int, default=1024)
    parser.add_argument("--outputs", type=int, nargs="+", default=[16, 32, 64, 128])
    args = parser.parse_args(argv)
    batches = [Batch(size, args.prefix, args.suffix, out) for size in args.batches for out in args.outputs]
    report = run("B7", args, batches)
    chart = plot.Chart("B7", "output tokens", "time per token: paged / ours")
    for size in args.batches:
        of = [
            result
            for result in report.results
            if result.pair == "ours/paged"
            and result.point.startswith(f"batch={size} ")
            and result.point.endswith(" token")
        ]
        chart.lines.append(plot.Line(f"batch {size}", args.outputs, [result.ratio for result in of]))
    report.charts.append(chart)
    return report.finish()
