"""64 requests at once with a common 1024-token prefix, against 64 with distinct ones of the same length.

The correctness gate: `cached_tokens` of all but one request covers the prefix, and the answers of the shared run
equal those of the same requests sent one by one afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time

import aiohttp

from bench.serving import serve
from bench.stats import spread, write_json

Answer = tuple[str, int]


async def complete(session: aiohttp.ClientSession, url: str, ids: list[int], tokens: int) -> Answer:
    request = {"prompt": ids, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    async with session.post(f"{url}/v1/completions", json=request) as answer:
        body = await answer.json()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {body}")
    return body["choices"][0]["text"], body["usage"]["prompt_tokens_details"]["cached_tokens"]


def _prompts(rng: random.Random, args: argparse.Namespace, *, shared: bool) -> list[list[int]]:
    def ids(count: int) -> list[int]:
        return [rng.randrange(300, 2600) for _ in range(count)]

    common = ids(args.prefix)
    return [(common if shared else ids(args.prefix)) + ids(args.suffix) for _ in range(args.requests)]


async def _measure(url: str, args: argparse.Namespace) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"shared": [], "distinct": []}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout(total=None)
    ) as session:
        for seed in range(args.repeats + 1):
            for name in ("shared", "distinct"):
                prompts = _prompts(random.Random(f"{name} {seed}"), args, shared=name == "shared")
                start = time.perf_counter()
                answers = await asyncio.gather(*(complete(session, url, ids, args.tokens) for ids in prompts))
                times[name].append(time.perf_counter() - start)
                if name == "shared":
                    _check_computed_once(answers, args)
                    alone = await complete(session, url, prompts[-1], args.tokens)
                    if alone[0] != answers[-1][0]:
                        raise RuntimeError("a shared answer differs from the same request alone")
    return {name: samples[1:] for name, samples in times.items()}


def _check_computed_once(answers: list[Answer], args: argparse.Namespace) -> None:
    computed = sum(1 for _, cached in answers if cached < args.prefix)
    if computed != 1:
        raise RuntimeError(f"{computed} of {len(answers)} requests computed the prefix; cached: {answers}")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench prefix", description=__doc__)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--prefix", type=int, default=1024)
    parser.add_argument("--suffix", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    with serve() as server:
        times = asyncio.run(_measure(server.url, args))
    ratios = [a / b for a, b in zip(times["shared"], times["distinct"], strict=True)]
    path = write_json("prefix", times)
    print(f"shared {spread(times['shared'])} s, distinct {spread(times['distinct'])} s")
    ok = statistics.median(ratios) <= 0.35
    print(f"prefix shared/distinct {spread(ratios)} n={args.repeats} {'ok' if ok else 'above 0.35'} {path}")
    return 0
