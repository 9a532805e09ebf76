"""Co-simulation against wall time: the same runs on a server with one engine, and on virtual 1 engine.

The server's engine has one thread, so that server and client do not take cores from it; so has the virtual one.
Chains (nothing but latency), map-reduce (a full batch) and both at random arrivals. Bar: within 5 %.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from bench.arrivals import poisson
from bench.compare import Comparison, Run
from bench.cosim import VirtualComparison
from bench.graphs import chain, map_reduce
from bench.modes import OURS
from bench.report import paired
from bench.setup import Setup, set_up

BAR = 0.05


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--apps", type=int, default=8, help="of the mixed run")


def main(argv: list[str]) -> int:
    setup = set_up("COSIM", __doc__, argv, _flags, threads=1)
    report = setup.report()
    flags = ("--model", str(setup.folder), "--num-threads", "1")
    with Comparison([OURS], flags) as wall, VirtualComparison([OURS], flags) as virtual:
        for point in ("chain", "map-reduce", "mixed"):
            runs = [_run(setup, point, seed) for seed in range(setup.args.seeds + 1)]
            real, simulated = wall.run(runs)["ours"].dropped(1), virtual.run(runs)["ours"].dropped(1)
            ratio = paired(point, ("", ""), real.means, simulated.means, at_least=1 - BAR, at_most=1 + BAR)
            report.add(replace(ratio, pair="virtual-s/wall-s"))
            report.keep(point, {"wall": real.raw(), "virtual": simulated.raw()})
    return report.finish()


def _run(setup: Setup, point: str, seed: int) -> Run:
    texts = setup.texts(point, seed)
    if point == "chain":
        return Run([chain(texts, 12, 64, 16)])
    if point == "map-reduce":
        return Run([map_reduce(texts, 16, 48, 24)])
    apps = [
        map_reduce(texts, 6, 48, 16) if index % 2 else chain(texts, 6, 64, 16)
        for index in range(setup.args.apps)
    ]
    rate = 0.5 * 1e3 / setup.constants.call_ms(6 * 64, 16 * 6)
    return Run(apps, arrivals_s=poisson(rate, len(apps), f"cosim {seed}"))
