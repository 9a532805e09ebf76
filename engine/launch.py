"""Starts engine processes: by exec, so that one shares nothing with the server but a socket, which its siblings do
not inherit.

One can be started ahead (`launch_ahead`), before the server has imported what it needs itself: the engine's own
imports, torch above all, take longer. It is the next that `launch` hands out, if it fits; if none ever does, it
ends with the server.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from engine.config import EngineConfig

ROOT = Path(__file__).resolve().parents[1]

# libgomp's default spinning collapses when server, client and engine share cores; with none at all, each of a
# step's hundred parallel regions pays for a futex wake. 1000 turns, microseconds, reach from one to the next.
_SPINS = "1000"


class Launched(NamedTuple):
    """The server's end of the socket, and the process at the other."""

    connection: socket.socket
    process: subprocess.Popen[bytes]


_ahead: list[Launched] = []


def launch_ahead() -> None:
    """Start an engine that imports what it will need before it is told what to load."""
    _ahead.append(_start(None, "--ahead"))


def launch(config: EngineConfig) -> Launched:
    """The process for an engine of this configuration, which is yet to be sent. Raises OSError."""
    if _ahead and config.kind == "torch" and config.visible_device is None and config.cpu_cores is None:
        return _ahead.pop()
    return _start(config.visible_device)


def _start(visible_device: str | None, *flags: str) -> Launched:
    """CUDA reads its variable once, so that has to be there from the first instruction on."""
    environment = {"GOMP_SPINCOUNT": _SPINS} | os.environ
    environment |= {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}
    if visible_device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible_device
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "engine.worker", "--fd", str(theirs.fileno()), *flags],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environment,
            )
        except BaseException:
            ours.close()
            raise
    return Launched(ours, process)
