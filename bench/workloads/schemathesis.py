"""schemathesis against the published `openapi.json` and a real server: no 5xx, and answers as the document says.

It runs as it is published, in an environment of its own (made at the first run), on the simulated engine.
"""

from __future__ import annotations

import argparse
import subprocess
import time

from bench.peers.setup import Environment, cache_folder, ensure
from bench.serving import serve

SCHEMATHESIS = Environment("schemathesis", ("schemathesis==4.32.5",), (), "schemathesis")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
KEY = "schemathesis"
FLAGS = ("--engine", "sim", "--sim-step-ms", "0.2", "--max-model-len", "512", "--request-timeout", "20")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench schemathesis", description=__doc__)
    parser.add_argument("--examples", type=int, default=100, help="of each operation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="a regular expression for paths")
    args = parser.parse_args(argv)
    schemathesis = ensure(SCHEMATHESIS, cache_folder()).with_name("st")
    begun = time.perf_counter()
    with serve(*FLAGS, "--api-key", KEY) as server:
        command = [str(schemathesis), "run", server.url + "/openapi.json", "--no-color"]
        command += ["--header", f"Authorization: Bearer {KEY}", "--checks", ",".join(CHECKS)]
        command += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(args.examples)]
        command += ["--seed", str(args.seed), "--continue-on-failure", "--generation-database", "none"]
        if args.only:
            command += ["--include-path-regex", args.only]
        code = subprocess.run(command, check=False).returncode
        alive = server.status("/health") == 200
        errors = [line.strip() for line in server.log if " ERROR " in line]
    for line in errors[:20]:
        print(f"  {line}")
    ok = code == 0 and alive and not errors
    print(f"schemathesis seconds {time.perf_counter() - begun:.0f} {'ok' if ok else 'FAILED'}")
    return 0 if ok else 1
