"""`python -m bench WORKLOAD ...`: each workload is a module of bench.workloads with `main(argv)`."""

from __future__ import annotations

import importlib
import sys

WORKLOADS = {
    "overhead": "server CPU per streamed token, and time over the engine's step (simulated engine)",
    "chain": "20 dependent calls in one exchange against one exchange a call, emulated network",
    "prefix": "64 requests with a common prefix against 64 with distinct ones",
    "b0": "the constants of this machine: step and prefill times, capacity",
    "b1": "a chain of summaries as a program against one request a call, four network ratios",
    "b4": "many chains at once on few slots: application order against request order",
    "b5": "map-reduce against request-level serving capped for latency, and its curve over caps",
    "b10_single": "chat with a time per token beside batch work, on one engine in this process",
    "b13": "duplicate calls: with dedup against without",
    "soak": "mixed requests, disconnects, cancels and engine faults: all ends right, blocks and memory come back",
    "scheduler_cpu": "CPU of AppScheduler.handle with 10,000 tasks",
    "startup": "time from process start to the first token, and resident memory",
}


def main(argv: list[str]) -> int:
    if not argv or argv[0].lower() not in WORKLOADS:
        print("usage: python -m bench WORKLOAD [flags]\n")
        for name, text in WORKLOADS.items():
            print(f"  {name:10} {text}")
        return 0 if argv[:1] in ([], ["--help"], ["-h"]) else 2
    run = importlib.import_module(f"bench.workloads.{argv[0].lower()}").main
    return int(run(argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
