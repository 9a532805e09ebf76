"""Medians, spreads and result files: the same few lines for every workload."""

from __future__ import annotations

import json
import math
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "out"


def spread(samples: Sequence[float]) -> str:
    """`median [min-max]`, three significant digits."""
    return f"{statistics.median(samples):.3g} [{min(samples):.3g}-{max(samples):.3g}]"


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float, float]:
    """The geometric mean of paired ratios and its 95 % interval (Student's t over their logarithms)."""
    logs = [math.log(a / b) for a, b in zip(numerators, denominators, strict=True)]
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return math.exp(mean), 0.0, math.inf
    half = _T95[min(len(logs) - 2, len(_T95) - 1)] * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


_T95 = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
)
"""Two-sided 95 % quantiles for 1, 2, ... degrees of freedom; the last serves for more (it is wider)."""


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` (0..1) of all do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def write_json(name: str, result: object) -> Path:
    """Every raw sample, with date, commit and command, under bench/out."""
    RESULTS.mkdir(exist_ok=True)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    now = time.localtime()
    document = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S", now),
        "commit": commit.stdout.strip(),
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "result": result,
    }
    path = RESULTS / f"{name}-{time.strftime('%Y%m%d-%H%M%S', now)}.json"
    path.write_text(json.dumps(document, indent=1))
    return path
