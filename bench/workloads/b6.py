"""B6 copilot-batch: a long common prompt, over the size of the batch (paper, figure 15), in one process.

Prefill, memory and time per token apart, against no sharing and against shared blocks that are read for each
sequence (`bench/copilot.py`). Bar: at batch 16 and a prefix of 1,024, attention takes at most 0.4 times as long as
the per-sequence path. The bound of a ratio of prefill and memory is how many tokens there are with and without.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from bench import plot
from bench.checkpoint import SHAPES, checkpoint
from bench.copilot import PATHS, Batch, Measured, measure
from bench.report import Report, paired
from bench.workloads.b0 import constants_of, load

STATED = Batch(16, 1024, 32, 48)
BAR = 0.4


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench B6", description=__doc__)
    add_flags(parser)
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--prefixes", type=int, nargs="+", default=[512, 768, 1024])
    parser.add_argument("--output", type=int, default=48)
    args = parser.parse_args(argv)
    batches = [
        Batch(size, prefix, args.suffix, args.output) for prefix in args.prefixes for size in args.batches
    ]
    report = run("B6", args, batches)
    report.charts += [_chart(report, f"prefix={prefix}") for prefix in args.prefixes[-1:]]
    return report.finish()


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=SHAPES, default="tiny")
    parser.add_argument("--suffix", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=5)


def run(title: str, args: argparse.Namespace, batches: list[Batch]) -> Report:
    """Raises RuntimeError when the paths end in different tokens."""
    report = Report(title, vars(args), constants_of(args.model).constants)
    loaded = load(str(checkpoint(SHAPES[args.model])))
    measure(loaded, "ours", Batch(2, 256, 16, 8), -1)  # warms
    for batch in batches:
        samples: dict[str, list[Measured]] = {path: [] for path in PATHS}
        for seed in range(args.seeds):
            order = list(PATHS)[seed % len(PATHS) :] + list(PATHS)[: seed % len(PATHS)]
            for path in order:
                samples[path].append(measure(loaded, path, batch, seed))
            if any(samples[path][-1].token_ids != samples["ours"][-1].token_ids for path in PATHS):
                raise RuntimeError(f"{batch}: the paths differ")
        _add(report, batch, samples)
    return report


def _add(report: Report, batch: Batch, samples: dict[str, list[Measured]]) -> None:
    point = f"batch={batch.size} prefix={batch.prefix} out={batch.output}"
    ours = samples["ours"]
    unshared = batch.size * (batch.prefix + batch.suffix)
    tokens = unshared / (batch.prefix + batch.size * batch.suffix)
    for path, metric, bound in (
        ("none", "prefill_ms", tokens),
        ("none", "kv_tokens", None),
        ("none", "token_ms", None),
        ("paged", "token_ms", None),
        ("paged", "attention_ms", None),
        ("none", "total_ms", None),
    ):
        mine = [float(getattr(each, metric)) for each in ours]
        theirs = [float(getattr(each, metric)) for each in samples[path]]
        stated = metric == "attention_ms" and replace(batch, output=STATED.output) == STATED
        result = paired(
            f"{point} {metric.removesuffix('_ms')}",
            ("ours", path),
            mine,
            theirs,
            bound=bound,
            at_least=1 / BAR if stated else None,
            more=f"ours {sum(mine) / len(mine):.4g} {path} {sum(theirs) / len(theirs):.4g}",
        )
        report.add(result)
    report.keep(
        point,
        {
            path: [
                {
                    name: getattr(each, name)
                    for name in ("prefill_ms", "token_ms", "attention_ms", "kv_tokens", "total_ms")
                }
                for each in found
            ]
            for path, found in samples.items()
        },
    )


def _chart(report: Report, prefix: str) -> plot.Chart:
    chart = plot.Chart(f"{report.title}, {prefix}", "batch", "other / ours")
    for metric, pair in (
        ("prefill", "ours/none"),
        ("kv_tokens", "ours/none"),
        ("token", "ours/paged"),
        ("attention", "ours/paged"),
    ):
        of = [
            result
            for result in report.results
            if result.pair == pair and prefix in result.point.split() and result.point.endswith(f" {metric}")
        ]
        x = [float(result.point.split()[0].removeprefix("batch=")) for result in of]
        ratios = [result.ratio for result in of]
        chart.lines.append(
            plot.Line(f"{metric}, {pair}", x, ratios, [r.low for r in of], [r.high for r in of])
        )
    return chart
