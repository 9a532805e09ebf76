"""The README's examples, run as they are printed but for the address."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from bench.serving import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8000"


def test_the_readme_starts_with_the_two_commands() -> None:
    before = README.split("```")[1]
    assert [line.split("#")[0].strip() for line in before.strip().splitlines()] == ["make serve", "make test"]


@pytest.mark.parametrize(("language", "code"), BLOCKS, ids=[f"{i}-{b[0]}" for i, b in enumerate(BLOCKS)])
def test_an_example_of_the_readme_answers(language: str, code: str, server_url: str) -> None:
    program = [sys.executable, "-c"] if language == "python" else ["bash", "-c"]
    answer = subprocess.run(
        [*program, code.replace(ADDRESS, server_url)],
        cwd=ROOT,
        env={**os.environ, "PARROT_BASE_URL": server_url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip(), "it printed nothing"
    if language == "bash":
        assert "error" not in json.loads(answer.stdout), answer.stdout
