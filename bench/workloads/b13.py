"""B13 duplicates: a share of a map-reduce's calls are the same call again. Bound: 1 / (1 - d).

Ours with call dedup against ours without, on maps alone (the reduce is the same work in both and is kept small).
At d = 0 it shows what the looking-up costs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from bench.apps import App, Step, Texts
from bench.checkpoint import SHAPES, checkpoint, load_tokenizer
from bench.compare import Comparison, Run
from bench.modes import OURS
from bench.stats import ratio_interval, write_json


def duplicated(texts: Texts, calls: int, share: float, chunk: int, output: int) -> App:
    """`calls` independent calls, of which `share` repeat an earlier one."""
    distinct = calls - round(calls * share)
    prompts = [texts.make(chunk) for _ in range(distinct)]
    steps = tuple(Step(f"m{i}", (prompts[i % distinct],), output) for i in range(calls))
    return App(steps, tuple(step.name for step in steps))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench B13", description=__doc__)
    parser.add_argument("--model", choices=SHAPES, default="tiny")
    parser.add_argument("--calls", type=int, default=64)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--output", type=int, default=32)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.25, 0.5, 0.75])
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args(argv)
    folder = checkpoint(SHAPES[args.model])
    tokenizer = load_tokenizer(folder)
    without = replace(OURS, name="without", disabled=("call-dedup",))
    flags = ("--model", str(folder), "--max-num-seqs", str(args.slots))
    with Comparison((OURS, without), flags) as comparison:
        for number, share in enumerate(args.shares):
            seeds = range(1000 * number, 1000 * number + args.seeds + 1)  # other texts for each share
            apps = [
                duplicated(Texts(tokenizer, s), args.calls, share, args.chunk, args.output) for s in seeds
            ]
            times = comparison.run([Run([app]) for app in apps])
            ratio, low, high = ratio_interval(times["without"].means[1:], times["ours"].means[1:])
            bound = 1 / (1 - share)
            write_json(f"B13-{share}", {name: t.by_run for name, t in times.items()})
            verdict = "ok" if abs(ratio / bound - 1) <= 0.15 else "not within 15 % of the bound"
            print(
                f"B13 d={share:.2f} with/without dedup {ratio:.2f} [{low:.2f}-{high:.2f}] bound {bound:.2f} "
                f"n={args.seeds} {verdict}",
                flush=True,
            )
    return 0
