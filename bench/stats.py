"""Medians, spreads and result files: the same few lines for every workload."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "out"


def spread(samples: Sequence[float]) -> str:
    """`median [min-max]`, three significant digits."""
    return f"{statistics.median(samples):.3g} [{min(samples):.3g}-{max(samples):.3g}]"


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` (0..1) of all do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def write_json(name: str, result: object) -> Path:
    """Every raw sample, with date and commit, under bench/out."""
    RESULTS.mkdir(exist_ok=True)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    path = RESULTS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps({"commit": commit.stdout.strip(), "result": result}, indent=1))
    return path
