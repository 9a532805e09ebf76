"""Every program of examples/ runs, in both forms, and its answer is right where the model knows the answer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.serving import ROOT

EXAMPLES = ROOT / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))
SCRIPTS = sorted(EXAMPLES.glob("*.sh"))
ANSWERS = {
    "chain_summary": ("Mia lost a red ball", "Otto", "found a blue kite on the hill and gave it to Tom"),
    "chat": ("fox",),
    "extraction": ("Mia", "Tom", "the park", "A red ball."),
    "map_reduce": ("Lily found a green hat", "Otto lost a red kite", "Anna bought milk", "Sam."),
    "writer_reviewer": ("Mia was a fox", "in the park"),
}
"""What the output says. The stories are the model's own, but for what they were asked to be about."""


def run(command: list[str], server_url: str) -> str:
    answer = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PARROT_BASE_URL": server_url, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    return answer.stdout


def test_every_program_comes_in_both_forms() -> None:
    assert [path.stem for path in PROGRAMS] == [path.stem for path in SCRIPTS]
    assert len(PROGRAMS) >= 5


@pytest.mark.parametrize("path", PROGRAMS, ids=[path.stem for path in PROGRAMS])
def test_a_program_runs_with_the_sdk(path: Path, server_url: str) -> None:
    answer = run([sys.executable, "-m", f"examples.{path.stem}"], server_url)
    assert answer.strip()
    assert all(word in answer for word in ANSWERS.get(path.stem, ())), answer


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_a_program_runs_with_curl(path: Path, server_url: str) -> None:
    answer = run(["sh", str(path)], server_url)
    assert '"value' in answer, answer
    assert '"error":{' not in answer, answer
    # An event stream writes a text in pieces: its end holds the whole.
    assert all(word in answer for word in ANSWERS.get(path.stem, ())), answer
