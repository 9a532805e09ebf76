"""What every workload begins with: its common flags, a checkpoint, texts, the machine's constants, modes."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from bench.apps import App, Texts
from bench.bounds import Constants
from bench.checkpoint import SHAPES, checkpoint, load_tokenizer
from bench.compare import Comparison, Run, Times
from bench.constants import Calibrated
from bench.cosim import VirtualComparison
from bench.modes import MODES, Mode, chosen
from bench.report import Report, paired
from bench.stats import percentile
from bench.workloads.b0 import constants_of
from engine.runner.simulated import BYTES_PER_TOKEN

SIMULATED = ("--engine", "sim", "--sim-step-ms", "0")
"""An engine that computes nothing, where a model says how long it would have taken."""

SCALED = "scaled"
"""The network that keeps the paper's ratio of network to step time."""


@dataclass(frozen=True, slots=True)
class Setup:
    """One workload's surroundings. `calibrated`: of an engine with all cores, or with `threads`."""

    name: str
    args: argparse.Namespace
    folder: Path
    tokenizer: Tokenizer
    calibrated: Calibrated

    @property
    def constants(self) -> Constants:
        return self.calibrated.constants

    def modes(self) -> list[Mode]:
        return chosen(self.args.modes)

    def texts(self, *seed: object) -> Texts:
        """Of their own for every seed: servers remember what they have computed."""
        return Texts(self.tokenizer, " ".join(map(str, (self.name, *seed))))

    def compare(self, modes: Sequence[Mode], *flags: str) -> Comparison:
        """Servers of these modes; virtual ones as `--virtual` or `--modelled` say."""
        flags = ("--model", str(self.folder), *flags)
        if self.args.modelled:
            return VirtualComparison(modes, (*flags, *SIMULATED), model=self.constants)
        if self.args.virtual:
            return VirtualComparison(modes, flags, self.tokenizer)
        return Comparison(modes, flags, self.tokenizer)

    def runs(
        self,
        point: object,
        make: Callable[..., App],
        *parameters: float,
        copies: int = 1,
        round_trip_s: float = 0.0,
        **named: object,
    ) -> list[Run]:
        """One that warms, and one for each seed: `copies` applications that `make` builds of their own texts."""
        runs = []
        for seed in range(self.args.seeds + 1):
            texts = self.texts(point, seed)
            apps = [make(texts, *parameters, **named) for _ in range(copies)]
            runs.append(Run(apps, round_trip_s, seed))
        return runs

    def report(self) -> Report:
        """Labelled as what it is."""
        kind = "modelled" if self.args.modelled else "virtual" if self.args.virtual else ""
        engines = getattr(self.args, "engines", 1)
        title = f"{self.name} {kind} {engines} engine{'s' * (engines > 1)}" if kind else self.name
        return Report(title, vars(self.args), self.constants)

    def kv_memory(self, tokens: int, block_size: int = 16) -> tuple[str, ...]:
        """Flags for a pool of so many tokens, and the scratch block."""
        size = (-(-tokens // block_size) + 1) * block_size * self.constants.kv_bytes
        return ("--kv-cache-memory", str(size), "--block-size", str(block_size))


def set_up(
    name: str,
    doc: str | None,
    argv: list[str],
    flags: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
    *,
    threads: int | None = None,
    seeds: int = 5,
) -> Setup:
    parser = argparse.ArgumentParser(
        prog=f"python -m bench {name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SHAPES, default="tiny")
    parser.add_argument("--seeds", type=int, default=seeds, help="runs that count; one more warms")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument(
        "--virtual", action="store_true", help="in virtual time, as if each engine had a device of its own"
    )
    parser.add_argument(
        "--modelled", action="store_true", help="as --virtual, but a step takes what the constants say"
    )
    flags(parser)
    args = parser.parse_args(argv)
    if "ours" not in args.modes:
        parser.error("--modes: ours has to be there")
    folder = checkpoint(SHAPES[args.model])
    if args.virtual or args.modelled:
        threads = None  # one engine after another has all cores
    calibrated = constants_of(args.model, threads)
    if args.modelled:
        constants = replace(calibrated.constants, kv_bytes=BYTES_PER_TOKEN)
        calibrated = msgspec.structs.replace(calibrated, constants=constants)
    return Setup(name, args, folder, load_tokenizer(folder), calibrated)


def add_engines(parser: argparse.ArgumentParser, default: int = 2) -> None:
    parser.add_argument("--engines", type=int, default=default)


def add_networks(parser: argparse.ArgumentParser, default: Sequence[str] = ("0", SCALED, "250")) -> None:
    parser.add_argument(
        "--networks", nargs="+", default=list(default), help="median round trips in ms; `scaled`: see above"
    )


def round_trip_s(network: str, scaled_s: float) -> float:
    return scaled_s if network == SCALED else float(network) / 1e3


def report_pairs(
    report: Report,
    point: str,
    times: Mapping[str, Times],
    *,
    bound: float | None = None,
    share: float | None = None,
    at_least: float | None = None,
    against: str = "radix",
    also: bool = True,
    more: Mapping[str, str] | None = None,
) -> None:
    """Ours over every other mode by mean completion; bound and bar are those against `against`."""
    for name, other in times.items():
        if name == "ours":
            continue
        stated = name == against
        report.add(
            paired(
                point,
                ("ours", name),
                times["ours"].means,
                other.means,
                bound=bound if stated else None,
                share=share if stated else None,
                at_least=at_least if stated else None,
                also=also if stated else True,
                more=(more or {}).get(name, ""),
            )
        )
    describe(times)
    report.keep(point or "all", {name: each.raw() for name, each in times.items()})


def describe(times: Mapping[str, Times]) -> None:
    """The distribution of each mode's completion times, over all runs, and what its server counted."""
    for name, each in times.items():
        seconds = [second for run in each.by_run for second in run]
        middle, tail = percentile(seconds, 0.5), percentile(seconds, 0.99)
        counted = ""
        if each.counters:
            asked = sum(each.counted("prefix_cache_queries"))
            hits = sum(each.counted("prefix_cache_hits")) / asked if asked else 0.0
            counted = f", {hits:.0%} of prompt tokens cached, {sum(each.counted('engine_steps')):.0f} steps"
        print(
            f"    {name:9} mean {statistics.fmean(seconds):.3f} s, p50 {middle:.3f}, p99 {tail:.3f}, "
            f"max {max(seconds):.3f}{counted}",
            flush=True,
        )
