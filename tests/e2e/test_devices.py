"""Where engines compute and how their loading is shown: the real process, with and without a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios

from bench.serving import ROOT, Server


def test_a_gpu_that_is_not_there_ends_the_start_with_one_message() -> None:
    """--devices 63: no machine has so many. (`choose_device` has a test of what else may be asked for.)"""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    ended = subprocess.run(
        [sys.executable, "run_server.py", "--port", "0", "--devices", "63"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    errors = [line for line in ended.stderr.splitlines() if "INFO" not in line]
    assert len(errors) == 1, ended.stderr
    assert "--devices 63: " in errors[0]
    assert "Traceback" not in ended.stderr


def test_on_a_terminal_a_bar_shows_the_weights_loading() -> None:
    text = _on_a_terminal()
    shares = [int(share) for share in re.findall(r"\rloading weights: +(\d+)%\|", text)]
    assert shares == sorted(shares)
    assert shares[-1] == 100
    assert re.search(r"loading weights: 100%\|[^\r\n]*\r*\n", text), "the bar ends its line"
    for line in text.splitlines():
        assert line.count(" INFO ") <= 1, "a log line begins a line"


def test_without_a_terminal_there_is_no_bar(bundled_server: Server) -> None:
    assert "is ready" in bundled_server.text()
    assert "%|" not in bundled_server.text()


def _on_a_terminal() -> str:
    """What a server writes to a terminal of 80 columns until it has loaded and been told to end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "run_server.py", "--port", "0", "--device", "cpu"],
        cwd=ROOT,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        stderr=theirs,
    )
    os.close(theirs)
    written = b""
    try:
        while chunk := _read(ours):
            written += chunk
            if b"is ready" in chunk:
                process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, written
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return written.decode()


def _read(terminal: int) -> bytes:
    """b"" once nobody writes any more, which a terminal reports as an error."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
