"""From process start to the first token, and resident memory of all processes, of the default server."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

import aiohttp

from bench.serving import serve
from bench.stats import spread, write_json


async def _first_token(url: str) -> None:
    request = {"prompt": "Once upon a time", "max_tokens": 8, "stream": True}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/completions", json=request) as answer,
    ):
        async for line in answer.content:
            if line.startswith(b"data: {"):
                return
    raise RuntimeError("the stream ended without a token")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench startup", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    seconds, megabytes = [], []
    for _ in range(args.repeats + 1):  # the first fills the page cache and is dropped
        start = time.perf_counter()
        with serve() as server:
            asyncio.run(_first_token(server.url))
            seconds.append(time.perf_counter() - start)
            megabytes.append(server.resident_bytes() / 1e6)
    seconds, megabytes = seconds[1:], megabytes[1:]
    path = write_json("startup", {"first_token_s": seconds, "resident_mb": megabytes})
    ok = statistics.median(seconds) < 3 and max(megabytes) < 700
    print(f"startup first_token_s {spread(seconds)} resident_mb {spread(megabytes)} ", end="")
    print(f"n={args.repeats} {'ok' if ok else 'above 3 s or 700 MB'} {path}")
    return 0
