"""A load tester against the bundled model: its figures and those of /metrics for the same time must agree.

`guidellm` and `locust` run as they are published, in environments of their own (made at the first run); `own` is
our client. Counts, tokens per second, time to first token and time between tokens may differ by 5 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict

from bench.harness import own, tools
from bench.harness.figures import TOLERANCE, Figures, Watch
from bench.serving import serve
from bench.stats import write_json

TOOLS: dict[str, Callable[[str, int, float], Figures]] = {
    "own": own.run,
    "locust": tools.locust,
    "guidellm": tools.guidellm,
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench harness", description=__doc__)
    parser.add_argument("--tool", choices=TOOLS, default="own")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--users", type=int, default=4)
    args = parser.parse_args(argv)
    with serve() as server:
        own.run(server.url, args.users, 2.0)  # the first requests of a process are slower
        with Watch(server) as watch:
            theirs = TOOLS[args.tool](server.url, args.users, args.seconds)
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
