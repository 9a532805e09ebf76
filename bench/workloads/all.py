"""The whole set, one workload after another, each in a process of its own, at sizes that fit this machine.

A workload that fails is reported, and the next one runs. At the end all last lines stand together, and the exit
code is 0 when every workload has run to its end (whether its bars are met is what the lines say).

`--quick` is the 10-minute set, `--more` what the full one leaves out. `--list` prints the commands, and how long
they should take. A time limit ends a workload that takes far longer. `--summary FOLDER` writes one table of all
results there.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import summary
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
    Job("b0", 1),
    Job(f"b1 {TWO} --networks scaled", 9),
    Job(f"b1 {TWO} --outputs 25 --networks 0 250", 4),
    Job(f"b4 {TWO} --apps 12 24", 5.5),
    Job("b5 --caps 1 4", 3.5),
    Job(f"b3 {TWO} --networks 0", 5),
    Job("b9", 3.5),
    Job(f"b8 {THREE} --requests 40 --seconds 3 --halvings 2", 7),
    Job("b10", 2.5),
    Job("b10_single", 3),
    Job("b6 --prefixes 512 1024 --batches 4 16", 2.5),
    Job(f"b11 {TWO} --pools 60 100", 2.5),
    Job(f"b12 {TWO}", 1.5),
    Job(f"b12 {TWO} --engines 2", 1.5),
    Job("b13", 3),
    Job("scheduler_cpu", 0.5),
    Job("cosim", 2),
)
"""The most telling first. Minutes: on two quiet cores, where a step of the tiny model takes 7 to 12 ms."""

MORE = (
    Job("b0 --threads 1", 1.5),
    Job("ablation --seeds 3", 14),
    Job(f"b3 {TWO} --networks scaled", 6),
    Job(f"b2 {TWO} --steps 12 --networks scaled --seeds 3", 4),
    Job("b7", 5),
    Job(f"b8 {TWO} --pool 1.1 --seeds 3 --requests 40 --seconds 3 --halvings 2", 3.5),
    Job(f"b8 --virtual --engines 4 {THREE} --seeds 3 --requests 40 --halvings 2", 10),
    Job("b10 --virtual --engines 4 --seeds 3", 5),
    Job("b4 --modes ours parrot none --apps 24 --no-uncapped --seeds 3", 4),
    Job(f"b4 {TWO} --apps 12 --no-uncapped --networks scaled 250 --seeds 3", 3),
    Job(f"b9 {THREE} --files 8 --networks scaled 250 --seeds 3", 2),
    Job(f"b11 {TWO} --pools 40 80", 2.5),
    Job("overhead", 3),
    Job("startup", 2),
)
"""What the rest of the set is, another hour."""

QUICK = (
    Job("b0", 1),
    Job(f"b1 {TWO} --outputs 25 --networks scaled 250 --seeds 3", 2),
    Job(f"b4 {TWO} --apps 24 --no-uncapped --seeds 3", 2),
    Job(f"b5 {TWO} --caps --seeds 3", 1),
    Job("b6 --prefixes 1024 --batches 16 --seeds 3", 1),
    Job(f"b9 {THREE} --files 16 --seeds 3", 1.5),
    Job(f"b11 {TWO} --pools 60 100 --seeds 3", 1.5),
    Job(f"b12 {TWO} --seeds 3", 1),
    Job("b13 --shares 0 0.5 --seeds 3", 1.5),
)


STOP_S = 60.0

RAW = "raw samples:"

PATIENCE = 2.0
"""How many times as long as it should take a workload may."""


@dataclass(slots=True)
class Outcome:
    """`problem`: why it did not end well, if so. `raw`: its file of samples, if it has written one."""

    command: str
    seconds: float
    lines: list[str]
    problem: str = ""
    raw: str = ""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench all", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--more", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--model", help="for all workloads that have the flag")
    parser.add_argument("--only", nargs="+", metavar="WORKLOAD", help="of all of them")
    parser.add_argument("--summary", type=Path, metavar="FOLDER", help="for summary.md and summary.json")
    args = parser.parse_args(argv)
    jobs: tuple[Job, ...] = QUICK if args.quick else MORE if args.more else FULL
    if args.only:
        known = QUICK if args.quick else (*FULL, *MORE)
        jobs = tuple(job for job in known if job.command.split()[0] in args.only)
    if args.list:
        print("\n".join(f"python -m bench {job.command}  # {job.minutes:g} min" for job in jobs))
        print(f"# {sum(job.minutes for job in jobs):g} min")
        return 0
    outcomes = [_run(job, args.model) for job in jobs]
    for outcome in outcomes:
        print(f"\n{outcome.command}  ({outcome.seconds:.0f} s{outcome.problem and ': ' + outcome.problem})")
        print("\n".join(outcome.lines))
    if args.summary is not None:
        table = [row for each in outcomes for row in _rows(each)]
        print(f"\nsummary: {summary.write(args.summary, table)}")
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
    output, problem = run([sys.executable, "-m", "bench", *words], job.minutes * 60 * PATIENCE)
    print(output, end="", flush=True)
    return Outcome(
        " ".join(words), time.perf_counter() - begun, last_lines(output), problem, raw_samples(output)
    )


def run(command: list[str], limit_s: float, stop_s: float = STOP_S) -> tuple[str, str]:
    """What it has written to its end, and what was wrong. Nothing of its process group outlives it: whatever it has
    started holds the other end of the pipe that is read here."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, process_group=0)
    try:
        output, _ = process.communicate(timeout=limit_s)
        problem = f"exit code {process.returncode}" if process.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"more than {limit_s / 60:g} minutes"
        process.send_signal(signal.SIGINT)  # so that it ends its servers
        try:
            output, _ = process.communicate(timeout=stop_s)
        except subprocess.TimeoutExpired:
            _kill(process)
            output, _ = process.communicate()
    finally:
        _kill(process)
    return output, problem


def _kill(process: subprocess.Popen[str]) -> None:
    """It, and what it may have left."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _rows(outcome: Outcome) -> list[summary.Row]:
    raw = ROOT / outcome.raw if outcome.raw else None
    return list(summary.rows(outcome.command, outcome.lines, outcome.problem, raw))


def raw_samples(output: str) -> str:
    """The file that it says it has written; empty: none."""
    named = (line.removeprefix(RAW) for line in output.splitlines() if line.startswith(RAW))
    return next((name.strip() for name in named), "")


def last_lines(output: str) -> list[str]:
    """The results: what follows the last line of a report that is no result."""
    lines = output.rstrip().splitlines()
    marks = [index for index, line in enumerate(lines) if line.startswith((RAW, "plot:", "no plot:"))]
    found = lines[marks[-1] + 1 :] if marks else lines[-1:]
    return found or lines[-1:]
