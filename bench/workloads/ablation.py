"""What each optimisation brings where it acts: ours against ours without it.

A toggle is tried on the workload that it was made for, at a size of a few seconds; elsewhere it should do nothing.
Texts have to be the same with and without. Above 1: it helps.

`--features` tries only some; `--of parrot` takes features from the mode `parrot` instead, which shows what each
part of the paper brings without what goes beyond it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from bench import plot
from bench.apps import App, Texts
from bench.arrivals import evenly, poisson
from bench.compare import Run
from bench.graphs import (
    assistant,
    chain,
    cyclic,
    duplicated,
    late_input,
    map_reduce,
    multi_agent,
    single,
    tool_input,
)
from bench.modes import MODES
from bench.report import Report, paired
from bench.setup import Setup, set_up
from bench.workloads.b12 import balanced_context
from server.config import FEATURES


@dataclass(frozen=True, slots=True)
class Trial:
    """A workload on which a feature acts. `count`: only the first so many applications count, None: all. `last`:
    the end of the last one counts, not the mean."""

    name: str
    make: Callable[[Setup, Texts, int], Run]
    flags: tuple[str, ...] = ()
    count: int | None = None
    pool: int | None = None  # tokens of KV cache; None: the default
    last: bool = False


def _many_chains(setup: Setup, texts: Texts, seed: int) -> Run:
    return Run([chain(texts, 6, 64, 16) for _ in range(16)])


def _more_chains(setup: Setup, texts: Texts, seed: int) -> Run:
    return Run([chain(texts, 10, 64, 12) for _ in range(13)])


def _agents(setup: Setup, texts: Texts, seed: int) -> Run:
    return Run([multi_agent(texts, 8, 2, 16)])


def _common_prompt(setup: Setup, texts: Texts, seed: int) -> Run:
    instructions = texts.make(1024)
    return Run([assistant(texts, instructions, 16, 48) for _ in range(16)])


def _long_and_short(setup: Setup, texts: Texts, seed: int) -> Run:
    """Chats that are read as they come, beside long prompts that arrive one by one. The chats count."""
    chats = [single(texts, 32, 48, tpot_ms=1.5 * setup.calibrated.points[0].decode_ms) for _ in range(4)]
    long = [single(texts, 1500, 8) for _ in range(6)]
    span = setup.constants.call_ms(32, 48, beside=4) / 1e3
    return Run([*chats, *long], arrivals_s=[0.0] * len(chats) + evenly(len(long), span))


def _duplicates(setup: Setup, texts: Texts, seed: int) -> Run:
    return Run([duplicated(texts, 48, 0.5, 64, 24)])


def _cycle(setup: Setup, texts: Texts, seed: int) -> Run:
    return Run([cyclic(texts, 6, 512, 4, 16)])


def _late(setup: Setup, texts: Texts, seed: int) -> Run:
    wait_s = 32 * setup.constants.step_ms(1, 32) / 1e3
    return Run([tool_input(texts, balanced_context(32, setup.constants), 32, wait_s, 8, late_last=True)])


def _overheard(setup: Setup, texts: Texts, seed: int) -> Run:
    return Run([late_input(texts, balanced_context(32, setup.constants), 32, 8, late_last=True)])


def _assistants(setup: Setup, texts: Texts, seed: int) -> Run:
    """Four kinds of questions in a mixed order, so that placement matters."""
    instructions = [texts.make(size) for size in (744, 512, 640, 400)]
    apps = [assistant(texts, instructions[(index * 7 + index // 4) % 4], 8, 24) for index in range(24)]
    rate = 1.5e3 / setup.constants.call_ms(600, 24)
    return Run(apps, arrivals_s=poisson(rate, len(apps), f"assistants {seed}"))


def _map_reduces(setup: Setup, texts: Texts, seed: int) -> Run:
    return Run([map_reduce(texts, 12, 48, 24) for _ in range(4)])


def _sizes(setup: Setup, texts: Texts, seed: int) -> Run:
    """Short and long programs together, the long ones first."""
    long: list[App] = [chain(texts, 10, 64, 24) for _ in range(4)]
    short = [chain(texts, 2, 64, 16) for _ in range(12)]
    return Run([*long, *short])


FEW_SLOTS = ("--max-num-seqs", "4")
TWO_ENGINES = ("--engines", "2")
CYCLE_POOL = 6 * 560 * 6 // 10

CHAINS = Trial("many chains", _many_chains, FEW_SLOTS)
SIZES = Trial("long and short programs", _sizes, FEW_SLOTS)
ASSISTANTS = Trial("assistants on two engines", _assistants, TWO_ENGINES)
JOBS = Trial("map-reduce on two engines", _map_reduces, TWO_ENGINES)
CHATS = Trial("chats beside long prompts", _long_and_short, count=4)

TRIALS = {
    "prefix-cache": Trial("agents", _agents),
    "in-flight-dedup": Trial("a common prompt", _common_prompt),
    "shared-prefix-attention": Trial("a common prompt", _common_prompt),
    "chunked-prefill": CHATS,
    "pausing": CHAINS,
    "handover": CHAINS,
    "call-dedup": Trial("duplicates", _duplicates, FEW_SLOTS),
    "objective-batching": CHATS,
    "next-use-eviction": Trial("agents in turn", _cycle, pool=CYCLE_POOL),
    "affinity": ASSISTANTS,
    "task-groups": JOBS,
    "app-fifo": CHAINS,
    "step-limits": Trial("chats beside long prompts, two engines", _long_and_short, TWO_ENGINES, count=4),
    "ageing": SIZES,
    "hold-back": ASSISTANTS,
    "srpt": SIZES,
    "critical-path": Trial("the last of many chains", _more_chains, FEW_SLOTS, last=True),
    "fair-share": SIZES,
    "length-prediction": SIZES,
    "eager-prefill": Trial("late input", _late),
    "streamed-prefill": Trial("another agent's words", _overheard),
    "overlap": Trial("map-reduce", _map_reduces),
    "cuda-graphs": Trial("map-reduce", _map_reduces),
    "compiled-kernels": Trial("map-reduce", _map_reduces),
}


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--features", nargs="+", choices=FEATURES, default=list(FEATURES))
    parser.add_argument("--of", choices=("ours", "parrot"), default="ours")


def main(argv: list[str]) -> int:
    setup = set_up("ablation", __doc__, argv, _flags)
    report = setup.report()
    for feature in setup.args.features:
        trial = TRIALS.get(feature)
        if trial is None:
            print(f"  no workload is known on which {feature} acts")
        elif feature in MODES[setup.args.of].features:
            _try(setup, report, feature, trial)
    report.charts.append(_chart(report))
    return report.finish()


def _chart(report: Report) -> plot.Chart:
    results = report.results
    x = list(range(1, len(results) + 1))
    names = [f"{number} {result.point.split()[0]}" for number, result in zip(x, results, strict=True)]
    chart = plot.Chart(
        "ablation", "\n".join(", ".join(names[at : at + 4]) for at in range(0, len(x), 4)), "without / with"
    )
    low, high = [result.low for result in results], [result.high for result in results]
    chart.lines.append(plot.Line("ratio", x, [result.ratio for result in results], low, high))
    return chart


def _try(setup: Setup, report: Report, feature: str, trial: Trial) -> None:
    whole = MODES[setup.args.of]
    modes = [whole, whole.without(feature)]
    pool = () if trial.pool is None else setup.kv_memory(trial.pool)
    runs = [trial.make(setup, setup.texts(feature, seed), seed) for seed in range(setup.args.seeds + 1)]
    with setup.compare(modes, *trial.flags, *pool) as comparison:
        times = {name: each.dropped(1) for name, each in comparison.run(runs).items()}
    counted = times if trial.count is None else {k: t.select(range(trial.count)) for k, t in times.items()}
    ours, without = ([t.means, t.last][trial.last] for t in (counted[whole.name], counted["without"]))
    report.add(paired(f"{feature} ({trial.name})", ("with", "without"), ours, without))
    report.keep(feature, {name: each.raw() for name, each in times.items()})
