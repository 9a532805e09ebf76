"""Starts real server processes for benchmarks and tests: `with serve("--engine", "sim") as server: server.url`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


@dataclass(slots=True)
class Server:
    """A running server. `log` grows as the process writes."""

    process: subprocess.Popen[str]
    url: str = ""
    log: list[str] = field(default_factory=list)
    _listening: threading.Event = field(default_factory=threading.Event)

    def read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if match := re.search(r"listening on (http://\S+)", line):
                self.url = match[1]
                self._listening.set()
        self._listening.set()

    def wait_ready(self) -> None:
        """Raises AssertionError with the log when the process ends or is not ready in time."""
        assert self._listening.wait(START_TIMEOUT_S), self.text()
        assert self.url, self.text()
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.process.poll() is None and time.monotonic() < deadline:
            if self.status("/health/ready") == 200:
                return
            time.sleep(0.02)  # readiness is what is being waited for, and it cannot be subscribed to
        raise AssertionError(self.text())

    def status(self, path: str) -> int:
        """The HTTP status of a GET; 0 when nobody listens."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except urllib.error.URLError:
            return 0

    def get(self, path: str) -> object:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def metric(self, name: str) -> float:
        """The sum over all series of one metric of /metrics."""
        return _sum(self._metric_lines(), name)

    def metrics(self, names: Sequence[str]) -> dict[str, float]:
        """Several counters under their names without `vllm:` or `parrot:` and `_total`; 0 where there is none."""
        lines = self._metric_lines()
        return {
            name: _sum(lines, f"vllm:{name}_total") + _sum(lines, f"parrot:{name}_total") for name in names
        }

    def _metric_lines(self) -> list[str]:
        with urllib.request.urlopen(self.url + "/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
        return text.splitlines()

    def cpu_seconds(self) -> float:
        """User and system time of the server process alone, without its engines."""
        return _cpu_seconds(self.process.pid)

    def resident_bytes(self) -> int:
        """Resident memory of the server and all its engines."""
        pids = [self.process.pid, *_children(self.process.pid)]
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * os.sysconf(
            "SC_PAGE_SIZE"
        )

    def engine_pids(self) -> list[int]:
        """The engine processes that are alive now, oldest first."""
        return _children(self.process.pid)

    def text(self) -> str:
        return "".join(self.log)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code. Kills what does not end in time, and says so."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the server did not end:\n{self.text()}") from None


def _sum(lines: Sequence[str], name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{re.escape(name)}[{{ ]", line))


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def launch(*flags: str) -> Iterator[Server]:
    """A server process on a free port, perhaps not ready yet; it is stopped at the end."""
    process = subprocess.Popen(
        [sys.executable, "run_server.py", "--port", "0", *flags],
        cwd=ROOT,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        stderr=subprocess.PIPE,
        text=True,
    )
    server = Server(process)
    reader = threading.Thread(target=server.read_log)
    reader.start()
    try:
        yield server
    finally:
        try:
            server.stop()
        finally:
            reader.join()
            assert process.stderr is not None
            process.stderr.close()


@contextmanager
def serve(*flags: str) -> Iterator[Server]:
    """A server that answers."""
    with launch(*flags) as server:
        server.wait_ready()
        yield server
