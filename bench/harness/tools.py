"""Load testers of others: how each is started, and how its report is read. They run as they are published."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.harness.figures import OUTPUT_TOKENS, PROMPT_TOKENS, Figures, Load
from bench.peers.setup import VLLM, Environment, cache_folder, ensure
from bench.serving import ROOT

LOCUST = Environment("locust", ("locust==2.47.0",), (), "locust")
GUIDELLM = Environment(
    "guidellm", (f"torch=={version('torch').partition('+')[0]}", "guidellm==0.8.1"), (), "guidellm"
)
AIPERF = Environment("aiperf", ("aiperf==0.13.0",), (), "aiperf")

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
MODEL = ROOT / "models" / "parrot-tales"

SEEN = {"skip_special_tokens": False}
"""A first token that has no text is the server's first, and not the client's."""

_VLLM_BENCH_SERVE = """
import argparse
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
"""What `vllm bench serve` does: the command itself asks for the version of a package that the CPU build is not."""


def locust(load: Load) -> Figures:
    python = ensure(LOCUST, cache_folder())
    report = json.loads(
        output(
            (python, "-m", "locust", "-f", LOCUSTFILE, "--headless", "--json", "--only-summary"),
            *("--host", load.url, "-u", load.users, "-r", load.users),
            *("-t", f"{load.seconds:.0f}s", "--stop-timeout", "30s"),
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


def guidellm(load: Load) -> Figures:
    python = ensure(GUIDELLM, cache_folder())
    backend = {"kind": "openai_http", "target": load.url, "request_format": "/v1/completions"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        output(
            (python.with_name("guidellm"), "run", "--disable-console", "--output", f"kind=json,path={path}"),
            *("--backend", json.dumps({**backend, "extras": {"body": SEEN}})),
            *("--profile", f"kind=concurrent,streams={load.users}"),
            *("--constraint", f"kind=max_duration,seconds={load.seconds:.0f}"),
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


def vllm(load: Load) -> Figures:
    """Its mean ITL is over events, and a server that is behind puts tokens together; its TPOT is over tokens."""
    python = ensure(VLLM, cache_folder())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        output(
            (python, "-c", _VLLM_BENCH_SERVE, "--backend", "openai", "--endpoint", "/v1/completions"),
            *("--base-url", load.url, "--model", MODEL.name, "--tokenizer", MODEL),
            *("--dataset-name", "random", "--input-len", PROMPT_TOKENS, "--output-len", OUTPUT_TOKENS),
            *(
                "--extra-body",
                json.dumps(SEEN),
                "--ignore-eos",
                "--num-prompts",
                load.requests,
                "--max-concurrency",
                load.users,
            ),
            *("--ready-check-timeout-sec", 0, "--save-result", "--result-filename", path, "--disable-tqdm"),
            env={"HF_HUB_OFFLINE": "1"},
        )
        report = json.loads(path.read_text())
    return Figures(
        requests=report["completed"],
        output_tokens=report["total_output_tokens"],
        tokens_per_s=report["output_throughput"],
        ttft_ms=report["mean_ttft_ms"],
        inter_token_ms=report["mean_tpot_ms"],
    )


def aiperf(load: Load) -> Figures:
    """Its own offline switch takes a folder for a repository's name, so it is not set; it downloads nothing."""
    python = ensure(AIPERF, cache_folder())
    with tempfile.TemporaryDirectory() as folder:
        output(
            (python.with_name("aiperf"), "profile", "--ui", "none", "--artifact-dir", folder),
            *("--url", load.url, "--endpoint-type", "completions", "--streaming", "--model", MODEL.name),
            *("--tokenizer", MODEL, "--isl", PROMPT_TOKENS, "--osl", OUTPUT_TOKENS, "--random-seed", 0),
            *("--use-legacy-max-tokens", "--use-server-token-count"),
            *("--extra-inputs", json.dumps({"ignore_eos": True, **SEEN})),
            *("--concurrency", load.users, "--request-count", load.requests, "--no-gpu-telemetry"),
        )
        report = json.loads((Path(folder) / "profile_export_aiperf.json").read_text())
    return Figures(
        requests=report["request_count"]["avg"],
        output_tokens=report["total_output_tokens"]["avg"],
        tokens_per_s=report["output_token_throughput"]["avg"],
        ttft_ms=report["time_to_first_token"]["avg"],
        inter_token_ms=report["inter_token_latency"]["avg"],
    )


def _mean(row: Mapping[str, Any]) -> float:
    return float(row["total_response_time"] / row["num_requests"])


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
