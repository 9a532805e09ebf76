"""B9 multi-agent: an architect, coders, and rounds of reviewers and revisers (paper, figure 18).

All calls of a stage begin with the same text, which the stage before has written: shared only if the server sees
that, and computed once only if the calls of a stage come as one group. The bound against `none`
comes from the machine's constants: every stage at once, its common prefix computed and held once against once for
each call.
Bars at F = 16: 0.85 of that bound against `none`, 1.15 against `radix`.
"""

from __future__ import annotations

import argparse
import itertools
import statistics

from bench import plot
from bench.bounds import Constants, Stage, staged_ms
from bench.compare import Times
from bench.graphs import multi_agent
from bench.setup import SCALED, add_networks, report_pairs, round_trip_s, set_up
from bench.stats import percentile

ROLE, OWN = 32, 8
STATED = 16

RATIO = 0.33
"""Network over step time where it is scaled."""


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--files", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=int, default=16)
    add_networks(parser, ("0",))


def main(argv: list[str]) -> int:
    setup = set_up("B9", __doc__, argv, _flags)
    report, args = setup.report(), setup.args
    measured: dict[int, dict[str, Times]] = {}
    with setup.compare(setup.modes()) as comparison:
        for files, network in itertools.product(args.files, args.networks):
            point = f"F={files} net={network}{'' if network == SCALED else 'ms'}"
            trip = round_trip_s(
                network, RATIO * setup.constants.call_ms(ROLE, args.output, beside=files) / 1e3
            )
            runs = setup.runs(point, multi_agent, files, args.rounds, args.output, ROLE, round_trip_s=trip)
            times = {name: each.dropped(1) for name, each in comparison.run(runs).items()}
            measured.setdefault(files, times)
            stated = files == STATED and not trip
            bound = None if trip else _bound(setup.constants, files, args.rounds, args.output)
            hits = {name: f"hits {_hit_rate(each):.2f}" for name, each in times.items()}
            share = 0.85 if stated else None
            report_pairs(
                report,
                point,
                {name: each for name, each in times.items() if name in ("ours", "none")},
                bound=bound,
                share=share,
                against="none",
                more=hits,
            )
            others = {name: each for name, each in times.items() if name != "none"}
            report_pairs(report, point, others, at_least=1.15 if stated else None, more=hits)
    report.charts.append(_chart(measured))
    return report.finish()


def stages(files: int, rounds: int, output: int) -> list[Stage]:
    """As `graphs.multi_agent` builds them."""
    found = [Stage(1, 0, ROLE * 2, output * 2), Stage(files, ROLE + 2 * output, OWN, output)]
    for _ in range(rounds):
        found.append(Stage(files, ROLE + files * output, OWN, output))
        found.append(Stage(files, ROLE + 2 * files * output, OWN, output))
    return found


def _bound(constants: Constants, files: int, rounds: int, output: int) -> float:
    each = stages(files, rounds, output)
    alone = staged_ms(constants, each, sharing=False, batch=files)
    return alone / staged_ms(constants, each, sharing=True, batch=files)


def _hit_rate(times: Times) -> float:
    """Of all runs: prompt tokens that were not computed, over all."""
    asked = sum(times.counted("prefix_cache_queries"))
    return sum(times.counted("prefix_cache_hits")) / asked if asked else 0.0


def _chart(measured: dict[int, dict[str, Times]]) -> plot.Chart:
    chart = plot.Chart("B9", "files", "completion, s")
    for name in next(iter(measured.values())):
        means = [measured[files][name].means for files in measured]
        middle = [statistics.fmean(each) for each in means]
        low, high = [percentile(each, 0.0) for each in means], [max(each) for each in means]
        chart.lines.append(plot.Line(name, list(measured), middle, low, high))
    return chart
