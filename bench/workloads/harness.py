"""A load tester against the bundled model: its figures and those of /metrics for the same time must agree.

`aiperf`, `guidellm`, `locust` and `vllm` (its serving benchmark) run as they are published, in environments of
their own (made at the first run); `own` is our client. Counts, tokens per second, time to first token and time
between tokens may differ by 5 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict

from bench.harness import own, tools
from bench.harness.figures import OUTPUT_TOKENS, TOLERANCE, Figures, Load, Watch
from bench.serving import serve
from bench.stats import write_json

WARM_S = 5.0
"""The first requests of a process are slower."""

TOOLS: dict[str, Callable[[Load], Figures]] = {
    "own": own.run,
    "locust": tools.locust,
    "guidellm": tools.guidellm,
    "vllm": tools.vllm,
    "aiperf": tools.aiperf,
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench harness", description=__doc__)
    parser.add_argument("--tool", choices=TOOLS, default="own")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--users", type=int, default=4)
    args = parser.parse_args(argv)
    with serve() as server:
        load = _load(server.url, args.users, args.seconds)
        with Watch(server) as watch:
            theirs = TOOLS[args.tool](load)
    ours = watch.figures()
    differences = theirs.differences(ours)
    ok = all(abs(share) <= TOLERANCE for share in differences.values())
    result = {"theirs": asdict(theirs), "ours": asdict(ours), "differences": differences}
    path = write_json(f"harness-{args.tool}", result)
    for name, share in differences.items():
        print(f"  {name:15} {getattr(theirs, name):10.2f} /metrics {getattr(ours, name):10.2f} {share:+7.1%}")
    print(
        f"harness {args.tool} seconds {args.seconds:.0f} users {args.users} {'ok' if ok else 'FAILED'} {path}"
    )
    return 0 if ok else 1


def _load(url: str, users: int, seconds: float) -> Load:
    """As many requests as take about `seconds`, by how fast the first ones were."""
    first = own.run(Load(url, users, WARM_S, 0))
    requests = round(seconds * first.tokens_per_s / OUTPUT_TOKENS)
    return Load(url, users, seconds, max(requests, users))
