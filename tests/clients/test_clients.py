"""Programs written for OpenAI run unchanged: each in the client's own environment, against the real process.

`make clients` makes the environments (`requirements.txt` and `package.json` beside this file hold the versions);
without them these tests are skipped.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bench.serving import ROOT

PROGRAMS = Path(__file__).parent
ENVIRONMENT = ROOT / ".venv-clients"
PYTHON = ENVIRONMENT / "bin" / "python"
NODE = ENVIRONMENT / "node" / "openai.mjs"
OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none"}


def run(command: list[str]) -> None:
    answer = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **OFFLINE},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-4000:]


@pytest.mark.skipif(not PYTHON.exists(), reason="make clients")
@pytest.mark.parametrize("client", ["langchain", "litellm", "llama_index"])
def test_a_python_client_s_program_runs_unchanged(client: str, server_url: str) -> None:
    run([str(PYTHON), str(PROGRAMS / f"{client}_program.py"), server_url, "parrot-tales"])


@pytest.mark.skipif(not NODE.exists(), reason="make clients")
def test_the_npm_package_s_program_runs_unchanged(server_url: str) -> None:
    run(["node", str(NODE), server_url])
