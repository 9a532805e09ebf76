"""B5 map-reduce: ours against request-level serving that is capped for latency (paper, figure 14).

The cap is fair: the most sequences whose p90 decode step stays within `--slack` of a single one's, by the machine's
constants. The bound comes from these too: N maps in waves of the cap, against one wave. Bar: 0.9 of it at the fair
cap. `--caps` draws the curve over others; the modes without a cap stand beside it.
"""

from __future__ import annotations

import argparse
import statistics

from bench import plot
from bench.bounds import map_reduce as bound_of
from bench.compare import Times
from bench.graphs import map_reduce
from bench.modes import OURS, RADIX
from bench.setup import report_pairs, set_up

BAR = 0.9


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--maps", type=int, default=24)
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--output", type=int, default=64)
    parser.add_argument("--slack", type=float, default=1.5)
    parser.add_argument("--caps", type=int, nargs="*", default=[1, 2, 4, 8, 16], help="beside the fair one")


def main(argv: list[str]) -> int:
    setup = set_up("B5", __doc__, argv, _flags)
    report, args = setup.report(), setup.args
    target_ms = args.slack * setup.calibrated.points[0].decode_ms
    fair = min(setup.calibrated.sequences(target_ms, args.chunk + args.output), args.maps)
    measured: dict[int, dict[str, Times]] = {}
    for cap in sorted({fair, *args.caps}):
        others = setup.modes() if cap == fair else [OURS]
        capped = RADIX.started_with("--max-num-seqs", str(cap), name="capped")
        with setup.compare([*others, capped]) as comparison:
            point = f"cap={cap}{'(fair)' if cap == fair else ''}"
            runs = setup.runs(point, map_reduce, args.maps, args.chunk, args.output)
            times = {name: each.dropped(1) for name, each in comparison.run(runs).items()}
        measured[cap] = times
        bound = bound_of(setup.constants, args.maps, args.chunk, args.output, cap)
        share = BAR if cap == fair else None
        report_pairs(report, point, times, bound=bound, share=share, against="capped")
    report.charts.append(_chart(measured))
    return report.finish()


def _chart(measured: dict[int, dict[str, Times]]) -> plot.Chart:
    chart = plot.Chart("B5", "cap, sequences", "completion, s")
    for name in ("capped", "ours"):
        means = [measured[cap][name].means for cap in measured]
        middle = [statistics.fmean(each) for each in means]
        low, high = [min(each) for each in means], [max(each) for each in means]
        chart.lines.append(plot.Line(name, list(measured), middle, low, high))
    return chart
