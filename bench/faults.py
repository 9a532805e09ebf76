"""What can happen to an engine: its process is killed or stopped, or gets no more memory; its socket is cut, or
carries what it should not; a step of it raises.

The socket is reached as a debugger would reach it (pidfd_getfd, Linux 5.6): the server has no hook for that. Only
what a step raises has to be injected from inside, by an engine of `--inject-faults`.
"""

from __future__ import annotations

import ctypes
import os
import random
import re
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from engine.runner.injection import Fault

_PIDFD_GETFD = 438
THEFT_S = 0.5


@contextmanager
def engine_socket(pid: int) -> Iterator[socket.socket]:
    """The engine's own end. Raises OSError when it has gone, or the kernel does not let us."""
    found = re.search(rb"--fd\0(\d+)\0", Path(f"/proc/{pid}/cmdline").read_bytes())
    if found is None:
        raise ProcessLookupError(pid)
    process = os.pidfd_open(pid)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        number = libc.syscall(_PIDFD_GETFD, process, int(found[1]), 0)
        if number < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
    finally:
        os.close(process)
    with socket.socket(fileno=number) as end:
        yield end


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def cut(pid: int) -> None:
    with engine_socket(pid) as end:
        end.shutdown(socket.SHUT_RDWR)


def garble(pid: int) -> None:
    """The server reads bytes from its engine that are no frame."""
    with engine_socket(pid) as end:
        end.send(os.urandom(64))


def steal(pid: int) -> None:
    """The engine misses a few bytes of what the server sent, and takes what follows for something else."""
    with engine_socket(pid) as end:
        deadline = time.monotonic() + THEFT_S
        while time.monotonic() < deadline:
            try:
                if end.recv(7):
                    return
            except BlockingIOError:
                continue


def exhaust(pid: int) -> None:
    """Not a page more than it has: what it allocates next fails, wherever that is."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE")
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def inject(fault: Fault, pid: int) -> None:
    """Into the next step. A signal that comes before there is a handler ends the process, which is a fault too."""
    os.kill(pid, fault.signal)


FAULTS: dict[str, Callable[[int], None]] = {
    "kill": kill,
    "stop": stop,
    "cut": cut,
    "garble": garble,
    "steal": steal,
    "exhaust": exhaust,
    **{f"raise_{fault.name.lower()}": partial(inject, fault) for fault in Fault},
}


def happen(chance: random.Random, engines: list[int]) -> str | None:
    """One fault to one of the engines: its name; None when there was none to be hit."""
    name = chance.choice(list(FAULTS))
    if not engines:
        return None
    try:
        FAULTS[name](chance.choice(engines))
    except OSError:  # it has just gone
        return None
    return name
