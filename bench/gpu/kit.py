"""`python -m bench.gpu`: measures everything on one GPU, a section at a time, in at most eight minutes.

Writes a table and a JSON file as it goes, so that a run that is cut off keeps what it had. Without a CUDA GPU (or
with --small) it runs small: tiny shapes on the CPU's engine, and the GPU's kernels under Triton's interpreter; its
times mean nothing then.

Responsible for: flags, and for the process that measures: it is started again for the remaining sections when it
dies, and ended when a section outlives its budget. Leaves to others: sections (`sections`), files (`results`).
"""

from __future__ import annotations

import argparse
import os
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import msgspec

from bench.gpu.report import Began, Ended, Message
from bench.gpu.results import ROOT, Results
from bench.gpu.sections import GRACE_S, SECTIONS
from bench.stats import RESULTS

LIMIT_S = 480.0
MEASURED = ROOT / "bench" / "results"
START_S = 90.0
"""From the start of a worker to its first section: imports, and the machine's constants."""


def main(argv: Sequence[str]) -> int:
    """0: every section ran or did not apply. 1: one failed. Missed targets are results."""
    begun = time.monotonic()
    args = _parser().parse_args(argv)
    names = _chosen(args.only, args.skip)
    cuda = _has_cuda()
    small = args.small or not cuda
    command = "python -m bench.gpu " + shlex.join(argv)
    out = args.out or (RESULTS / "gpu" if small else MEASURED)
    results = Results(out, command.strip(), small, args.commit)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what is pending is cut
    run = Run(results, small, cuda, begun + args.limit, names)
    try:
        while run.pending:
            run.work()
    except KeyboardInterrupt:
        run.cut("interrupted")
        return 130
    finally:
        results.close()
    return 0 if results.ok else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="sections:\n" + "\n".join(f"  {name:<14} {it.text}" for name, it in SECTIONS.items()),
    )
    parser.add_argument("--only", metavar="NAMES", help="these sections, separated by commas (all)")
    parser.add_argument("--skip", metavar="NAMES", help="all but these")
    parser.add_argument("--small", action="store_true", help="small sizes; always so without a CUDA GPU")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="(bench/results; what is small to bench/out/gpu)"
    )
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help="seconds for all (480)")
    parser.add_argument("--commit", help="what to write as the commit, where the checkout has no git")
    return parser


def _chosen(only: str | None, skip: str | None) -> list[str]:
    """In the order of SECTIONS. Exits with 2 on a name that is none."""
    wanted = only.split(",") if only else list(SECTIONS)
    left_out = skip.split(",") if skip else []
    for name in (*wanted, *left_out):
        if name not in SECTIONS:
            print(f"there is no section {name!r}; sections: {', '.join(SECTIONS)}", file=sys.stderr)
            raise SystemExit(2)
    return [name for name in SECTIONS if name in wanted and name not in left_out]


def _has_cuda() -> bool:
    """Asked in a process of its own, unless torch's version says it: this one stays without torch."""
    if version("torch").endswith("+cpu"):
        return False
    code = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@dataclass(slots=True)
class Run:
    """`pending`: sections that have not ended, in order; the first may be running. Times are of time.monotonic.

    Workers are told to be done GRACE_S before the deadline, so that force is needed for those that hang alone.
    """

    results: Results
    small: bool
    cuda: bool
    deadline: float
    pending: list[str]
    _begun: float = 0.0
    _running: bool = False
    _buffer: bytes = field(default=b"")

    def work(self) -> None:
        """One worker's life. At least one section less is pending afterwards."""
        left = self.deadline - GRACE_S - time.monotonic()
        if left < 1:
            self.cut("no time left")
            return
        before = len(self.pending)
        with _worker(self._command(left), self.cuda) as (process, pipe):
            overdue = self._listen(pipe)
            if not overdue:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_S)
        if not self.pending:
            return
        if overdue:
            self._end("cut", "ended by force: it outlived its budget")
        elif self._running or len(self.pending) == before:
            self._end("failed", f"the worker died (exit code {process.returncode})")

    def cut(self, reason: str) -> None:
        """Nothing of what is pending runs any more."""
        while self.pending:
            self._end("cut", reason)

    def _command(self, left: float) -> list[str]:
        flags = [
            "--sections",
            ",".join(self.pending),
            "--left",
            f"{left:.1f}",
            *(["--small"] if self.small else []),
        ]
        return [sys.executable, "-m", "bench.gpu.worker", *flags]

    def _listen(self, pipe: int) -> bool:
        """Take messages until the worker ends. True: it had to be ended, because a section is overdue."""
        until = time.monotonic() + START_S
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while True:
                if not selector.select(max(0.0, until - time.monotonic())):
                    return True
                data = os.read(pipe, 1 << 16)
                if not data:
                    return False
                for message in self._messages(data):
                    until = self._take(message, until)

    def _messages(self, data: bytes) -> Iterator[Message]:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            yield msgspec.json.decode(line, type=Message)

    def _take(self, message: Message, until: float) -> float:
        """Keep a message; the time by which the worker has to be further."""
        self.results.take(message)
        now = time.monotonic()
        match message:
            case Began(_, _, budget_s):
                self._running, self._begun = True, now
                return now + budget_s + GRACE_S
            case Ended():
                self._running = False
                self.pending.pop(0)
                return now + GRACE_S
        return until

    def _end(self, status: str, reason: str) -> None:
        """The first of the pending sections is over, begun or not."""
        name = self.pending.pop(0)
        seconds = time.monotonic() - self._begun if self._running else 0.0
        if not self._running:
            self.results.take(Began(name, SECTIONS[name].text, 0.0))
        self._running, self._buffer = False, b""
        self.results.take(Ended(name, "cut" if status == "cut" else "failed", seconds, reason))


@contextmanager
def _worker(command: Sequence[str], cuda: bool) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A worker and its pipe, in a process group of its own, which is ended with all that it started."""
    read, write = os.pipe()
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}
    if not cuda:
        environment["TRITON_INTERPRET"] = "1"  # read when kernels are declared
        environment["OMP_NUM_THREADS"] = "1"  # tiny shapes gain nothing from more
    process: subprocess.Popen[bytes] | None = None
    try:
        with _deferred(signal.SIGINT, signal.SIGTERM):
            process = subprocess.Popen(
                [*command, "--fd", str(write)], cwd=ROOT, env=environment, pass_fds=(write,), process_group=0
            )
        os.close(write)
        yield process, read
    finally:
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(read)


@contextmanager
def _deferred(*signals: signal.Signals) -> Iterator[None]:
    """They are heard at the end, so that no process is started and forgotten."""
    came: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: came.append(number)) for number in signals}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for arrived in came:
        signal.raise_signal(arrived)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
