"""`python -m bench WORKLOAD ...`: each workload is a module of bench.workloads with `main(argv)`."""

from __future__ import annotations

import importlib
import sys

WORKLOADS = {
    "all": "every workload at a size that fits the machine; --quick: ten minutes",
    "ablation": "each optimisation switched off on the workload where it acts",
    "overhead": "server CPU per streamed token, and time over the engine's step (simulated engine)",
    "chain": "20 dependent calls in one exchange against one exchange a call, emulated network",
    "prefix": "64 requests with a common prefix against 64 with distinct ones",
    "b0": "the constants of this machine: step and prefill times, capacity",
    "b1": "a chain of summaries as a program against one request a call, four network ratios",
    "b2": "as b1, over the size of the chunks",
    "b3": "chains beside background requests at a share of what the engine takes",
    "b4": "many chains at once on few slots: application order against request order",
    "b5": "map-reduce against request-level serving capped for latency, and its curve over caps",
    "b6": "a long common prompt, over the batch: prefill, memory, time per token, attention (one process)",
    "b7": "as b6, over the length of the outputs",
    "b8": "four assistants with long instructions on two engines: request rate at equal latency",
    "b9": "architect, coders, reviewers, revisers: a common prefix for each stage",
    "b10": "chats with a time per token beside map-reduce, on two engines",
    "b10_single": "chat with a time per token beside batch work, on one engine in this process",
    "b11": "agents in turn in a KV pool that does not hold all: next use against least recently used",
    "b12": "a long context that is prefilled while another agent speaks",
    "b13": "duplicate calls: with dedup against without",
    "cosim": "virtual time against wall time, with one engine",
    "soak": "mixed requests, disconnects and cancels: all ends right, blocks and memory come back",
    "faults": "engines killed, stopped, cut off and garbled under mixed requests: all ends right or is told why",
    "overload": "four times as many requests as it can take: those taken do as well, the rest are told 429 at once",
    "fuzz": "requests at random against a real server: no 5xx, no hang, a canary after each batch",
    "schemathesis": "the published openapi.json against the server, by schemathesis",
    "harness": "guidellm, locust or our own client on the bundled model: their figures against /metrics",
    "scheduler_cpu": "CPU of AppScheduler.handle with 10,000 tasks",
    "peers": "B14 side by side with vLLM's CPU build and, if asked, `transformers serve`",
    "roofline": "step time over what bandwidth and arithmetic allow, by part of the step",
    "gpu": "everything on one CUDA GPU in eight minutes: kernels, steps, serving, throughput (bench/gpu)",
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
