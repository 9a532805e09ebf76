"""A server and its processes: started, watched until it answers, its CPU time and memory read, ended.

All processes stay in the client's session: in one of its own, a two-core scheduler starves the client and every
chunk arrives at once.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.serving import ROOT

STOP_S = 20.0
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Peer:
    """A running server. `started`: perf_counter when its process was made."""

    process: subprocess.Popen[bytes]
    url: str
    started: float
    log: IO[bytes]

    def wait_ready(self, path: str, timeout_s: float) -> None:
        """Until a GET of `path` gives 200. Raises RuntimeError with the end of the log."""
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None and time.monotonic() < deadline:
            if _answers(self.url + path):
                return
            time.sleep(0.02)  # readiness cannot be subscribed to
        raise RuntimeError(f"{self.url} does not answer:\n{self.text()[-4000:]}")

    def text(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def pids(self) -> list[int]:
        """The process and all below it that are alive."""
        found, open_ = [], [self.process.pid]
        while open_:
            pid = open_.pop()
            with suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    open_.extend(map(int, (task / "children").read_text().split()))
                found.append(pid)
        return found

    def cpu_seconds(self) -> dict[str, float]:
        """User and system time since the start, by what a process is; several of a kind count together."""
        seconds: dict[str, float] = {}
        for pid in self.pids():
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                role = _role(pid)
                seconds[role] = seconds.get(role, 0.0) + (int(fields[11]) + int(fields[12])) / _TICK
        return seconds

    def peak_resident_mb(self) -> float:
        """The sum of every process's largest resident size; memory that they share counts for each."""
        total = 0
        for pid in self.pids():
            with suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        total += int(line.split()[1])
        return total * 1024 / 1e6

    def stop(self) -> None:
        """Ask, wait, then kill what is left of it and its children."""
        pids = self.pids()
        if self.process.poll() is None:
            self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_S)
        for pid in pids[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _role(pid: int) -> str:
    """What a process calls itself, short: `VLLM::EngineCore`, `engine.worker`, `run_server.py`."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
    if not words or words[0].startswith("VLLM"):
        return words[0] if words else "ended"
    if "-m" in words:
        module = words[words.index("-m") + 1]
        return module if module.startswith("engine.") else module.split(".")[0]
    scripts = [word for word in words[1:] if not word.startswith("-")]
    return Path(scripts[0]).name if scripts and scripts[0] != "from" else "helper process"


@contextmanager
def start(command: Sequence[str], environment: Mapping[str, str], port: int) -> Iterator[Peer]:
    """A server on 127.0.0.1:`port`, perhaps not ready yet; it is stopped at the end."""
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        peer = Peer(process, f"http://127.0.0.1:{port}", started, log)
        try:
            yield peer
        finally:
            peer.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
