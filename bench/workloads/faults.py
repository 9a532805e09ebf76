"""Faults at random under mixed requests on two engines: every request ends right or with a clear error.

An engine's process is killed, stopped or starved of memory, its socket cut or garbled, its steps raise, requests
carry poison, and clients leave, reset and cancel meanwhile. Texts of what survived equal the undisturbed ones, no
variable hangs, and afterwards all engines are up and free.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import Counter

import aiohttp

from bench import faults
from bench.mixed import PATIENCE_S, MixedLoad
from bench.serving import Server, serve
from bench.stats import write_json
from bench.workloads.soak import report, settled

EVERY_S = 2.0
"""On average, or as often as an engine loads if that is longer: hit faster, it is given up for a while."""

PATIENCE = 30.0
"""A request has so many times as long as that, before it is said to hang."""

UP_S = 120.0
"""How long engines may take to be up again afterwards: one that was hit too often is not tried at once."""

POISON = 3  # in no text, and not among what the simulated engine generates
ENDLESS = 1000


async def _run(server: Server, args: argparse.Namespace, every_s: float) -> tuple[MixedLoad, Counter[str]]:
    chance = random.Random(args.seed)
    unhurried = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=unhurried) as session:
        poison, patience_s = None if args.model else POISON, max(PATIENCE_S, PATIENCE * every_s)
        load = MixedLoad(session, server.url, chance, ENDLESS, poison, patience_s)
        await load.learn()
        disturber = asyncio.create_task(_disturb(server, args.faults, random.Random(args.seed), every_s))
        await load.run_while(disturber, args.clients)
        return load, await disturber


async def _disturb(server: Server, count: int, chance: random.Random, every_s: float) -> Counter[str]:
    done: Counter[str] = Counter()
    while done.total() < count:
        await asyncio.sleep(chance.uniform(0.0, 2 * every_s))
        if await asyncio.to_thread(server.status, "/health/ready") != 200:
            continue  # both are between two lives
        name = await asyncio.to_thread(faults.happen, chance, server.engine_pids())
        if name is not None:
            done[name] += 1
    return done


def _all_up(server: Server, engines: int) -> bool:
    deadline = time.monotonic() + UP_S
    while time.monotonic() < deadline:
        if server.status("/health/ready") == 200 and len(server.engine_pids()) == engines:
            return True
        time.sleep(0.1)  # it can only be observed by asking again
    return False


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench faults", description=__doc__)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument(
        "--model", action="store_true", help="the bundled model in place of the simulated engine"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    kind = () if args.model else ("--engine", "sim", "--sim-crash-token", str(POISON))
    flags = ("--engines", str(args.engines), "--step-timeout", "5" if args.model else "1", "--inject-faults")
    begun = time.perf_counter()
    with serve(*kind, *flags, "--disable", "call-dedup") as server:
        every_s = max(EVERY_S, time.perf_counter() - begun)
        load, done = asyncio.run(_run(server, args, every_s))
        up, free = _all_up(server, args.engines), settled(server)
    ok = up and free and not load.wrong
    result = {"outcomes": dict(load.outcomes), "wrong": load.wrong, "faults": dict(done), "log": server.log}
    path = write_json("faults", result)
    report(load)
    kinds = " ".join(f"{name}:{count}" for name, count in sorted(done.items()))
    print(
        f"faults {done.total()} ({kinds}) requests {load.outcomes.total()} "
        f"seconds {time.perf_counter() - begun:.0f} every {every_s:.1f} s engines_up {up} free {free} "
        f"{'ok' if ok else 'FAILED'} {path}"
    )
    return 0 if ok else 1
