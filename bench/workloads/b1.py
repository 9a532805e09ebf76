"""B1 chain-output: a chain of summaries in one exchange, against one exchange a call (paper, figure 11a).

For each output length the network is scaled to the paper's ratio r of network to step time; the step time is what
our own mode takes without a network, measured in the same run. Bound: (1 + r) / (1 + r/N).
"""

from __future__ import annotations

import argparse
import statistics

from bench.apps import App, Texts, chain
from bench.checkpoint import SHAPES, checkpoint, load_tokenizer
from bench.compare import Comparison, Run
from bench.modes import OURS, RADIX
from bench.stats import ratio_interval, write_json

RATIOS = {25: 0.33, 50: 0.19, 75: 0.13, 100: 0.10}
"""Output length in tokens to network time over step time, as in the paper."""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench B1", description=__doc__)
    parser.add_argument("--model", choices=SHAPES, default="tiny")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--outputs", type=int, nargs="+", default=sorted(RATIOS), choices=sorted(RATIOS))
    args = parser.parse_args(argv)
    folder = checkpoint(SHAPES[args.model])
    tokenizer = load_tokenizer(folder)
    with Comparison((OURS, RADIX), ("--model", str(folder))) as comparison:
        for output in args.outputs:
            apps = [
                chain(Texts(tokenizer, seed), args.steps, args.chunk, output) for seed in range(args.seeds)
            ]
            warm = comparison.run(
                [Run([chain(Texts(tokenizer, -seed), args.steps, args.chunk, output)]) for seed in (1, 2)]
            )
            step_s = statistics.median(warm["ours"].means) / args.steps
            _report(comparison, apps, output, args.steps, step_s, RATIOS[output] * step_s, "scaled")
            _report(comparison, apps, output, args.steps, step_s, 0.25, "250ms")
    return 0


def _report(
    comparison: Comparison,
    apps: list[App],
    output: int,
    steps: int,
    step_s: float,
    round_trip_s: float,
    label: str,
) -> None:
    runs = [Run([app], round_trip_s, seed) for seed, app in enumerate(apps)]
    times = comparison.run(runs)
    ratio, low, high = ratio_interval(times["radix"].means, times["ours"].means)
    r = round_trip_s / step_s
    bound = (1 + r) / (1 + r / steps)
    write_json(f"B1-{output}-{label}", {name: t.by_run for name, t in times.items()} | {"step_s": step_s})
    verdict = "ok" if ratio >= 0.97 * bound else "below 0.97 of the bound"
    print(
        f"B1 out={output} {label} r={r:.2f} ours/radix {ratio:.2f} [{low:.2f}-{high:.2f}] "
        f"bound {bound:.2f} n={len(runs)} {verdict}",
        flush=True,
    )
