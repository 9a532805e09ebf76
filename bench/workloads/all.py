"""The whole set, one workload after another, each in a process of its own, at sizes that fit this machine.

A workload that fails is reported, and the next one runs. At the end all last lines stand together, and the exit
code is 0 when every workload has run to its end (whether its bars are met is what the lines say).

`--quick` is the 10-minute set. `--list` prints the commands. A time limit ends a workload that takes far longer
than it should.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from bench.serving import ROOT
from bench.stats import write_json


@dataclass(frozen=True, slots=True)
class Job:
    """A workload with its flags, and how many minutes it should take at most."""

    command: str
    minutes: float


THREE = "--modes ours radix none"
TWO = "--modes ours radix"

FULL = (
    Job("b0", 3),
    Job("b0 --threads 1", 3),
    Job(f"b1 {TWO} --networks scaled", 12),
    Job("b1 --outputs 25 --networks 0 250", 8),
    Job("b4", 6),
    Job("b5", 6),
    Job(f"b3 {TWO}", 10),
    Job("b9", 6),
    Job(f"b8 {THREE}", 12),
    Job(f"b8 {TWO} --pool 1.1 --seeds 3", 8),
    Job("b10", 6),
    Job("b10_single", 5),
    Job("b6", 6),
    Job("b7", 5),
    Job(f"b11 {TWO}", 8),
    Job(f"b12 {TWO}", 4),
    Job("b13", 4),
    Job("scheduler_cpu", 2),
    Job(f"b2 {TWO} --networks scaled --seeds 3", 6),
    Job("cosim", 5),
    Job(f"b8 --virtual --engines 4 {THREE} --seeds 3 --requests 40 --halvings 2", 10),
    Job("b10 --virtual --engines 4 --seeds 3", 6),
    Job(f"b4 {TWO} --apps 12 --no-uncapped --networks scaled 250 --seeds 3", 4),
    Job(f"b9 {THREE} --files 8 --networks scaled 250 --seeds 3", 5),
    Job("ablation --seeds 3", 15),
    Job("overhead", 3),
    Job("startup", 3),
)
"""The most telling first."""

QUICK = (
    Job("b0", 2),
    Job(f"b1 {TWO} --outputs 25 --networks scaled 250 --seeds 3", 3),
    Job(f"b4 {TWO} --apps 24 --no-uncapped --seeds 3", 2),
    Job(f"b5 {TWO} --caps --seeds 3", 2),
    Job("b6 --prefixes 1024 --batches 16 --seeds 3", 1),
    Job(f"b9 {THREE} --files 16 --seeds 3", 3),
    Job(f"b11 {TWO} --pools 60 100 --seeds 3", 2),
    Job(f"b12 {TWO} --seeds 3", 2),
    Job("b13 --shares 0 0.5 --seeds 3", 2),
)


STOP_S = 60.0

PATIENCE = 2.0
"""How many times as long as it should take a workload may."""


@dataclass(slots=True)
class Outcome:
    """`problem`: why it did not end well, if so."""

    command: str
    seconds: float
    lines: list[str]
    problem: str = ""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench all", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--model", help="for all workloads that have the flag")
    parser.add_argument("--only", nargs="+", metavar="WORKLOAD")
    args = parser.parse_args(argv)
    jobs = [
        job for job in (QUICK if args.quick else FULL) if not args.only or job.command.split()[0] in args.only
    ]
    if args.list:
        print("\n".join(f"python -m bench {job.command}" for job in jobs))
        return 0
    outcomes = [_run(job, args.model) for job in jobs]
    for outcome in outcomes:
        print(f"\n{outcome.command}  ({outcome.seconds:.0f} s{outcome.problem and ': ' + outcome.problem})")
        print("\n".join(outcome.lines))
    failed = [outcome.command for outcome in outcomes if outcome.problem]
    path = write_json("all", [asdict(outcome) for outcome in outcomes])
    minutes = sum(outcome.seconds for outcome in outcomes) / 60
    verdict = f"failed: {', '.join(failed)}" if failed else "ok"
    print(f"\nall {len(jobs)} workloads {minutes:.1f} min {path.relative_to(ROOT)} {verdict}")
    return 1 if failed else 0


def _run(job: Job, model: str | None) -> Outcome:
    words = job.command.split()
    if model is not None and words[0].startswith("b"):
        words += ["--model", model]
    print(f"== python -m bench {' '.join(words)}", flush=True)
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        output, _ = process.communicate(timeout=job.minutes * 60 * PATIENCE)
        problem = f"exit code {process.returncode}" if process.returncode else ""
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # so that it ends its servers
        output, _ = process.communicate(timeout=STOP_S)
        problem = f"more than {job.minutes * PATIENCE:g} minutes"
    print(output, end="", flush=True)
    return Outcome(" ".join(words), time.perf_counter() - begun, last_lines(output), problem)


def last_lines(output: str) -> list[str]:
    """The results: what follows the last line of a report that is no result."""
    lines = output.rstrip().splitlines()
    marks = [
        index for index, line in enumerate(lines) if line.startswith(("raw samples:", "plot:", "no plot:"))
    ]
    found = lines[marks[-1] + 1 :] if marks else lines[-1:]
    return found or lines[-1:]
