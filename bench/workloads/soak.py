"""Mixed requests with clients that leave and cancel: all ends right, and nothing of it is left.

Every request ends, texts equal the undisturbed ones, all KV blocks come back, and the resident memory of the
server, and of it and its engines together, is after all of it at most 20 MB above that after a quarter.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from pathlib import Path

import aiohttp

from bench.mixed import MixedLoad
from bench.serving import Server, serve
from bench.stats import write_json

MAX_GROWTH_MB = 20.0
ENDLESS = 1000

SIMULATED = ("--engine", "sim", "--kv-cache-memory", "32M")
"""A cache that is full after a quarter: while it fills, an engine grows by what it has to remember of it."""


Memory = tuple[float, float]
"""MB resident, of the server and of all its processes."""


async def _run(server: Server, args: argparse.Namespace) -> tuple[MixedLoad, list[Memory]]:
    unhurried = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=unhurried) as session:
        load = MixedLoad(session, server.url, random.Random(args.seed), ENDLESS)
        await load.learn()
        quarter, memory = args.requests // 4, []
        for count in (quarter, args.requests - quarter):
            await load.run(count, args.clients)
            memory.append((resident_mb(server.process.pid), server.resident_bytes() / 1e6))
    return load, memory


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def settled(server: Server) -> bool:
    """All blocks are free, and nothing runs or waits on an engine."""
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    deadline = time.monotonic() + 15
    while any(server.metric(f"vllm:{name}") for name in names) or server.metric("parrot:generations"):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)  # it can only be observed by asking again
    return True


def report(load: MixedLoad) -> None:
    for outcome, count in sorted(load.outcomes.items()):
        print(f"  {count:6} {outcome}")
    for what in load.wrong[:10]:
        print(f"  wrong: {what[:1000]}")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument(
        "--model", action="store_true", help="the bundled model in place of the simulated engine"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="more of the server's, last")
    args = parser.parse_args(argv)
    kind = () if args.model else SIMULATED
    begun = time.perf_counter()
    with serve(*kind, "--engines", str(args.engines), *args.flags) as server:
        load, memory = asyncio.run(_run(server, args))
        free = settled(server)
    seconds = time.perf_counter() - begun
    growth = [after - before for before, after in zip(*memory, strict=True)]
    ok = free and not load.wrong and max(growth) <= MAX_GROWTH_MB
    result = {"outcomes": dict(load.outcomes), "wrong": load.wrong, "resident_mb": memory, "log": server.log}
    path = write_json("soak", result)
    resident = ", ".join(
        f"{name} {before:.0f} -> {after:.0f}"
        for name, before, after in zip(("server", "all"), *memory, strict=True)
    )
    report(load)
    print(
        f"soak requests {load.outcomes.total()} seconds {seconds:.0f} "
        f"resident_mb {resident} free {free} {'ok' if ok else 'FAILED'} {path}"
    )
    return 0 if ok else 1
