"""The engine process: `python -m engine.worker --fd N`, N being one end of a socket pair.

Responsible for: loading the runner, and the loop that turns frames into steps and steps into reports. One
life:

    EngineConfig ->   -> Loading... -> Ready (or Failed, and exit 1)      synchronous, on the main thread
    requests     ->   -> one StepReport per step                          asyncio, nothing polls
    EOF, Shutdown     -> exit 0

Frames take effect at step boundaries. `core.step()` runs inline: on its own thread it was measured slower.
While the server does not read, reports do not pile up: the engine stops stepping. Signals are the parent's
business; an engine whose parent is gone sees EOF. Leaves to others: everything that is decided in a step
(EngineCore).
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from engine.batch import CHUNK
from engine.config import EngineConfig
from engine.ipc import HEADER, FrameEncoder, FrameError, decode_config, frame_length
from engine.runner.loaded import LoadedRunner, LoadError, Progress
from engine.types import Failed, FromEngine, Loading

if TYPE_CHECKING:
    from engine.core import EngineCore

log = logging.getLogger("engine.worker")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.worker", description="One Parrot engine process.")
    parser.add_argument("--fd", type=int, required=True, help="the inherited socket to the server")
    parser.add_argument("--ahead", action="store_true", help="import what a model needs before it is known")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    with socket.socket(fileno=args.fd) as connection:
        if args.ahead:
            _import_ahead()
        return _serve(connection)


def _import_ahead() -> None:
    from engine.runner.load import visible_gpus

    if not visible_gpus():
        import engine.runner.cpu_loader

        with suppress(ImportError):  # it is for who loads to say what is missing
            import engine.runner.compiled_forward  # noqa: F401


def _serve(connection: socket.socket) -> int:
    frames = FrameEncoder()
    try:
        payload = _read_frame(connection)
        if payload is None:
            return 0
        config = decode_config(payload)
        with _ExitOnHangup(connection):
            core = _load(
                config, lambda stage, done: _send(connection, frames, Loading(stage, done)), connection
            )
    except (FrameError, LoadError) as error:
        return _fail(connection, frames, str(error))
    except BrokenPipeError:
        return 0
    except Exception as error:
        log.exception("loading failed")
        return _fail(connection, frames, f"the engine could not load: {type(error).__name__}: {error}")
    # Imported late, so that a model begins to load at once.
    from engine.loop import run

    return run(connection, core)


def _load(config: EngineConfig, progress: Progress, connection: socket.socket) -> EngineCore:
    """Raises LoadError. `Ready` has been sent when this returns."""
    if config.cpu_cores is not None:
        os.sched_setaffinity(0, config.cpu_cores)
    if CHUNK % config.block_size:
        raise LoadError(f"--block-size {config.block_size} does not divide {CHUNK}")
    loaded = _load_runner(config, progress)
    runner = loaded.runner
    if config.inject_faults:
        from engine.runner.injection import faulty

        runner = faulty(runner)
    from engine.core import EngineCore

    core = EngineCore(runner, loaded.ready, config.disabled)
    _send(connection, FrameEncoder(), loaded.ready)
    return core


def _load_runner(config: EngineConfig, progress: Progress) -> LoadedRunner:
    if config.kind == "sim":
        from engine.runner.simulated import load_runner
    else:
        from engine.runner.load import load_runner
    return load_runner(config, progress)


def _read_frame(connection: socket.socket) -> memoryview | None:
    """The next frame's payload; None at EOF. Blocks."""
    header = _read_exactly(connection, HEADER)
    payload = None if header is None else _read_exactly(connection, frame_length(header))
    return None if payload is None else memoryview(payload)


def _read_exactly(connection: socket.socket, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        chunk = connection.recv(count - len(data))
        if not chunk:
            return None
        data += chunk
    return bytes(data)


def _send(connection: socket.socket, frames: FrameEncoder, message: FromEngine) -> None:
    connection.sendall(frames.encode(message))


def _fail(connection: socket.socket, frames: FrameEncoder, message: str) -> int:
    """The server logs it; without a server it is said here."""
    try:
        _send(connection, frames, Failed(message))
    except OSError:
        log.error("%s", message)
    return 1


class _ExitOnHangup:
    """Ends the process when the server goes away while a model is being loaded, which nothing interrupts."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._watch, name="hangup", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._wake.close()
        self._thread.join()
        self._woken.close()

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._connection, select.POLLHUP | select.POLLRDHUP)
        poll.register(self._woken, select.POLLHUP | select.POLLIN)
        for fd, _ in poll.poll():
            if fd == self._connection.fileno():
                os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
