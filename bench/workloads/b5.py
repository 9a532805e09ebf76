"""B5 map-reduce: ours against request-level serving that is capped for latency (paper, figure 14).

The cap is fair: the largest number of sequences whose p90 decode step stays within `--slack` of a single one's, as
measured here first (B0). The bound comes from the fitted constants: N maps in waves of the cap, against one wave.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from bench.apps import Texts, map_reduce
from bench.checkpoint import SHAPES, checkpoint, load_tokenizer
from bench.compare import Comparison, Run
from bench.modes import OURS, RADIX
from bench.stats import ratio_interval, write_json
from bench.workloads.b0 import Constants, fit, measure


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench B5", description=__doc__)
    parser.add_argument("--model", choices=SHAPES, default="tiny")
    parser.add_argument("--maps", type=int, default=24)
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--output", type=int, default=64)
    parser.add_argument("--slack", type=float, default=1.5)
    parser.add_argument("--caps", type=int, nargs="*", help="instead of the fair one: a curve over these")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args(argv)
    folder = checkpoint(SHAPES[args.model])
    points = list(measure(str(folder), [1, 2, 4, 8, 16, 24], [args.chunk + args.output]))
    constants = fit(points)
    target = args.slack * points[0].decode_ms
    fair = max((point.sequences for point in points if point.p90_ms <= target), default=1)
    tokenizer = load_tokenizer(folder)
    for cap in args.caps or [fair]:
        capped = replace(RADIX, name=f"capped{cap}", more_flags=("--max-num-seqs", str(cap)))
        runs = [
            Run([map_reduce(Texts(tokenizer, s), args.maps, args.chunk, args.output)])
            for s in range(args.seeds + 1)
        ]
        with Comparison((OURS, capped), ("--model", str(folder))) as comparison:
            times = comparison.run(runs)
        ratio, low, high = ratio_interval(times[capped.name].means[1:], times["ours"].means[1:])
        bound = _seconds(constants, args, cap) / _seconds(constants, args, args.maps)
        write_json(f"B5-cap{cap}", {name: t.by_run for name, t in times.items()})
        verdict = "ok" if ratio >= 0.9 * bound else "below 0.9 of the bound"
        print(
            f"B5 cap={cap}{' (fair)' if cap == fair else ''} ours/capped {ratio:.2f} [{low:.2f}-{high:.2f}] "
            f"bound {bound:.2f} n={args.seeds} {verdict}",
            flush=True,
        )
    return 0


def _seconds(constants: Constants, args: argparse.Namespace, cap: int) -> float:
    """Maps in waves of `cap`, then the reduce, by the fitted step and prefill times."""
    chunk, output, total = int(args.chunk), int(args.output), int(args.maps)
    context = chunk + output / 2

    def wave(sequences: int, prompt: int) -> float:
        step = constants.a + constants.b * sequences + constants.c * sequences * context
        return constants.p * prompt * sequences + output * step

    full, rest = divmod(total, cap)
    maps = full * wave(cap, chunk) + (wave(rest, chunk) if rest else 0.0)
    return (maps + wave(1, total * output)) / 1e3
