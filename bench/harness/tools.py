"""Load testers of others: an environment of its own for each, how it is started, and how its report is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.harness.figures import OUTPUT_TOKENS, PROMPT_TOKENS, Figures
from bench.serving import ROOT

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
MODEL = ROOT / "models" / "parrot-tales"


def locust(url: str, users: int, seconds: float) -> Figures:
    python = environment("locust", "locust==2.47.0")
    report = json.loads(
        output(
            (python, "-m", "locust", "-f", LOCUSTFILE, "--headless", "--json", "--only-summary"),
            *("--host", url, "-u", users, "-r", users, "-t", f"{seconds:.0f}s", "--stop-timeout", "30s"),
            env={"PROMPT_TOKENS": str(PROMPT_TOKENS), "OUTPUT_TOKENS": str(OUTPUT_TOKENS)},
        )
    )
    rows: dict[str, Any] = {row["name"]: row for row in report}
    tokens = rows["tokens"]
    return Figures(
        requests=rows["completion"]["num_requests"] - rows["completion"]["num_failures"],
        output_tokens=tokens["total_content_length"],
        tokens_per_s=tokens["total_content_length"]
        / (tokens["last_request_timestamp"] - rows["start"]["start_time"]),
        ttft_ms=_mean(rows["ttft"]),
        inter_token_ms=_mean(rows["inter_token"]),
    )


def guidellm(url: str, users: int, seconds: float) -> Figures:
    python = environment("guidellm", f"torch=={version('torch')}", "guidellm==0.8.1")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        output(
            (python.with_name("guidellm"), "run", "--disable-console", "--output", f"kind=json,path={path}"),
            *("--backend", f"kind=openai_http,target={url},request_format=/v1/completions"),
            *("--profile", f"kind=concurrent,streams={users}"),
            *("--constraint", f"kind=max_duration,seconds={seconds:.0f}"),
            *("--tokenizer", f"kind=huggingface_auto,model={MODEL}"),
            *("--data", f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={OUTPUT_TOKENS}"),
        )
        report = json.loads(path.read_text())
    (benchmark,) = report["benchmarks"]
    metrics = benchmark["metrics"]

    def of_all(name: str, value: str = "mean") -> float:
        """Also of the requests that the end of the run has cut, because the server counts those too."""
        return float(metrics[name]["total"][value])

    return Figures(
        requests=metrics["request_totals"]["successful"],
        output_tokens=of_all("output_token_count", "total_sum"),
        tokens_per_s=of_all("output_tokens_per_second"),
        ttft_ms=of_all("time_to_first_token_ms"),
        inter_token_ms=of_all("inter_token_latency_ms"),
    )


def _mean(row: Mapping[str, Any]) -> float:
    return float(row["total_response_time"] / row["num_requests"])


def environment(name: str, *requirements: str) -> Path:
    """Its python; made when it is not there yet."""
    folder = Path(tempfile.gettempdir()) / f"parrot-bench-{name}"
    python, done = folder / "bin" / "python", folder / ".done"
    if not done.exists():
        venv.create(folder, with_pip=True)
        install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        output((*install, "pip==26.3"))
        output((*install, *requirements))
        done.touch()
    return python


def output(command: tuple[object, ...], *more: object, env: Mapping[str, str] | None = None) -> str:
    """What it writes to stdout. Raises CalledProcessError, after its stderr has been shown."""
    done = subprocess.run(
        [str(part) for part in (*command, *more)],
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-4000:], file=sys.stderr)
        done.check_returncode()
    return done.stdout
