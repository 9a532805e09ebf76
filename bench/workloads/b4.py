"""B4 chain-many: many chains at once on few slots: application order against request order (paper, figure 12b).

Without a network, so that only the order counts. Bound for identical chains: 2R / (R + 1), R = apps over slots.
"""

from __future__ import annotations

import argparse
import statistics

from bench.apps import Texts, chain
from bench.checkpoint import SHAPES, checkpoint, load_tokenizer
from bench.compare import Comparison, Run
from bench.modes import OURS, RADIX
from bench.stats import ratio_interval, write_json


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench B4", description=__doc__)
    parser.add_argument("--model", choices=SHAPES, default="tiny")
    parser.add_argument("--apps", type=int, nargs="+", default=[6, 12, 24])
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--output", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args(argv)
    folder = checkpoint(SHAPES[args.model])
    tokenizer = load_tokenizer(folder)
    flags = ("--model", str(folder), "--max-num-seqs", str(args.slots))
    with Comparison((OURS, RADIX), flags) as comparison:
        for apps in args.apps:
            runs = []
            for seed in range(args.seeds + 1):  # the first warms and is dropped
                texts = Texts(tokenizer, seed)
                runs.append(Run([chain(texts, args.steps, args.chunk, args.output) for _ in range(apps)]))
            times = comparison.run(runs)
            ours, radix = times["ours"], times["radix"]
            ratio, low, high = ratio_interval(radix.means[1:], ours.means[1:])
            last = statistics.median(b / a for a, b in zip(ours.last[1:], radix.last[1:], strict=True))
            r = apps / args.slots
            bound = 2 * r / (r + 1)
            write_json(f"B4-{apps}", {name: t.by_run for name, t in times.items()})
            verdict = "ok" if ratio >= 0.92 * bound and last >= 1 else "below the bar"
            print(
                f"B4 apps={apps} ours/radix {ratio:.2f} [{low:.2f}-{high:.2f}] bound {bound:.2f} "
                f"last {last:.2f} n={args.seeds} {verdict}",
                flush=True,
            )
    return 0
