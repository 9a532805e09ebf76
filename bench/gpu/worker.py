"""The process that measures: runs sections one after the other and writes messages to a pipe, one JSON line each.

Responsible for: that a section which fails is reported and the next one runs, and that a GPU which no longer
answers ends the process, because nothing after that could be believed. Leaves to others: starting it again (`kit`),
files.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence

import msgspec

from bench.gpu.report import Began, Ended, Message, Report, Status
from bench.gpu.sections import SECTIONS, Bench, SkipSection, budget

GPU_LOST = 3
"""Exit code: a kernel failed in a way that leaves the GPU unusable for this process."""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.worker")
    parser.add_argument("--fd", type=int, required=True, help="the pipe to write messages to")
    parser.add_argument("--sections", required=True, help="names, separated by commas")
    parser.add_argument("--left", type=float, required=True, help="seconds for all of them")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args(argv)
    deadline = time.monotonic() + args.left
    sys.stdout = sys.stderr  # what libraries print is no part of the tables
    with os.fdopen(args.fd, "wb", buffering=0) as pipe:

        def send(message: Message) -> None:
            pipe.write(msgspec.json.encode(message) + b"\n")

        return _run(args.sections.split(","), deadline, args.small, send)


def _run(names: Sequence[str], deadline: float, small: bool, send: Callable[[Message], None]) -> int:
    # Seconds of imports, so that a wrong flag is told before.
    from bench.gpu.engines import Engines
    from bench.gpu.machine import measure

    machine = measure(small)
    report = Report(send, judged=machine.cuda and not small)
    engines = Engines(machine)
    for position, name in enumerate(names):
        section = SECTIONS[name]
        begun = time.monotonic()
        seconds = budget(names[position:], deadline - begun, small)
        send(Began(name, section.text, seconds))
        if not position:
            send(machine.constants())
        bench = Bench(report, machine, engines, small, begun + seconds)
        report.failed.clear()
        status, detail = _attempt(section.module, bench)
        send(Ended(name, status, time.monotonic() - begun, detail))
        if status == "failed" and not _answers(bench):
            return GPU_LOST
    return 0


def _attempt(module: str, bench: Bench) -> tuple[Status, str]:
    """One section, whatever it raises."""
    try:
        importlib.import_module(module).run(bench)
    except SkipSection as reason:
        return "skipped", str(reason)
    except Exception as error:
        traceback.print_exc()
        first = str(error).strip().splitlines()[:1]
        return "failed", f"{type(error).__name__}: {first[0] if first else ''}"[:300]
    failed = bench.report.failed
    return ("failed", "wrong: " + ", ".join(failed)) if failed else ("ok", "")


def _answers(bench: Bench) -> bool:
    """After a failure: engines are dropped, and the GPU must still compute."""
    try:
        bench.engines.close()
        bench.machine.synchronize()
    except Exception:
        traceback.print_exc()
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
