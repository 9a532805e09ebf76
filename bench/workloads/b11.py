"""B11 cyclic agents: they speak in turn, each with a context of its own, in a KV pool that does not hold all.

Which contexts to keep: those that are wanted soonest, which the program's graph tells, against those that were used
last. Ours against ours without `next-use-eviction`. On a cycle of n equal contexts of which m fit, the least
recently used one is always the next to be wanted: no hits, against (m - 1) / (n - 1). The bound is what these hit
rates come to by the machine's constants. Bars: no worse than LRU at 100 % of the working set, 1.3 times at 60 %.
"""

from __future__ import annotations

import argparse

from bench import plot
from bench.bounds import Constants, cyclic_hits
from bench.compare import Times
from bench.graphs import cyclic
from bench.modes import OURS, RADIX
from bench.report import paired
from bench.setup import Setup, set_up

BARS = {100: 1.0, 60: 1.3}
BLOCK = 16


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agents", type=int, default=6)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--output", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument(
        "--pools", type=int, nargs="+", default=[40, 60, 80, 100], help="%% of the working set"
    )


def main(argv: list[str]) -> int:
    setup = set_up("B11", __doc__, argv, _flags)
    report, args = setup.report(), setup.args
    lru = OURS.without("next-use-eviction", name="lru")
    modes = [OURS, lru, *([RADIX] if RADIX in setup.modes() else [])]
    hits: dict[str, list[float]] = {mode.name: [] for mode in modes}
    for pool in args.pools:
        point = f"pool={pool}%"
        with setup.compare(modes, *setup.kv_memory(pool_tokens(args, pool), BLOCK)) as comparison:
            runs = setup.runs(point, cyclic, args.agents, args.context, args.rounds, args.output)
            times = {name: each.dropped(1) for name, each in comparison.run(runs).items()}
        for name, each in times.items():
            hits[name].append(_hit_rate(each))
        bound = _bound(setup.constants, setup, pool)
        for name in times:
            if name != "ours":
                report.add(
                    paired(
                        point,
                        ("ours", name),
                        times["ours"].means,
                        times[name].means,
                        bound=bound,
                        at_least=_bar(name, pool),
                        more=f"hits {hits['ours'][-1]:.2f}/{hits[name][-1]:.2f}",
                    )
                )
        report.keep(point, {name: each.raw() for name, each in times.items()})
    chart = plot.Chart("B11", "KV pool, % of the working set", "prompt tokens found")
    chart.lines += [plot.Line(name, args.pools, rates) for name, rates in hits.items()]
    report.charts.append(chart)
    return report.finish()


def pool_tokens(args: argparse.Namespace, percent: int) -> int:
    """100 %: every agent's context with what it reads and says, in whole blocks."""
    one = -(-(args.context + 2 * args.output) // BLOCK) * BLOCK
    return int(args.agents * one * percent // 100)


def _bar(name: str, pool: int) -> float | None:
    """No worse than LRU: within the noise of a percent."""
    if name != "lru" or pool not in BARS:
        return None
    return BARS[pool] if pool != 100 else 0.97


def _bound(constants: Constants, setup: Setup, pool: int) -> float:
    args = setup.args
    worst, best = cyclic_hits(args.agents, args.agents * pool // 100)
    prompt = args.context + args.output

    def call(rate: float) -> float:
        return constants.call_ms(prompt, args.output, cached=rate * args.context)

    return call(worst) / call(best)


def _hit_rate(times: Times) -> float:
    asked = sum(times.counted("prefix_cache_queries"))
    return sum(times.counted("prefix_cache_hits")) / asked if asked else 0.0
