"""What the server costs above the engine: CPU per streamed token at many streams, latency at one.

The engine is simulated, so that all that is measured is ours. Two figures:
  cpu    server process CPU (user + system) over tokens streamed, `--streams` at once
  single median gap between two events of one stream, less the engine's own step time
The clients are processes of their own; their CPU is not counted, but they share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from itertools import pairwise

import aiohttp
import orjson

from bench.serving import Server, serve
from bench.stats import spread, write_json

STEP_MS = 20.0


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench overhead", description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=100, help="per stream")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--client", metavar="URL", help=argparse.SUPPRESS)  # this program as a load process
    args = parser.parse_args(argv)
    if args.client:
        print(asyncio.run(_many(args.client, args.streams, args.tokens)))
        return 0
    cpu = _cpu_per_token(args.streams, args.tokens, args.repeats)
    single = _single_stream(args.tokens * 4, args.repeats)
    path = write_json("overhead", {"cpu_us_per_token": cpu, "single_ms_over_step": single})
    ok = statistics.median(cpu) < 30 and statistics.median(single) <= 0.4
    print(f"server CPU per token at {args.streams} streams: {spread(cpu)} us (bar 30)")
    print(f"one stream, gap over the engine's step: {spread(single)} ms (bar 0.4)")
    print(f"overhead cpu_us {statistics.median(cpu):.1f} single_ms {statistics.median(single):.3f} ", end="")
    print(f"n={args.repeats} {'ok' if ok else 'above the bar'} {path}")
    return 0


def _cpu_per_token(streams: int, tokens: int, repeats: int) -> list[float]:
    flags = ("--engine", "sim", "--max-num-seqs", str(streams), "--max-num-batched-tokens", str(streams * 8))
    with serve(*flags, "--sim-step-ms", str(STEP_MS), "--kv-cache-memory", "1G") as server:
        _load(server, streams, 8)  # warm
        return [_load(server, streams, tokens) for _ in range(repeats)]


def _load(server: Server, streams: int, tokens: int) -> float:
    """Microseconds of server CPU per token."""
    before = server.cpu_seconds()
    command = [sys.executable, "-m", "bench", "overhead", "--client", server.url]
    command += ["--streams", str(streams), "--tokens", str(tokens)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    received = int(answer.stdout)
    if received != streams * tokens:
        raise RuntimeError(f"{received} events for {streams * tokens} tokens")
    return (server.cpu_seconds() - before) / received * 1e6


async def _many(url: str, streams: int, tokens: int) -> int:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        counts = await asyncio.gather(*(_stream(session, url, tokens, index) for index in range(streams)))
    return sum(counts)


async def _stream(session: aiohttp.ClientSession, url: str, tokens: int, index: int) -> int:
    """The tokens that came, by the usage chunk: events may carry several when the reader is slow."""
    received = 0
    async with session.post(f"{url}/v1/completions", json=_body(tokens, index)) as answer:
        async for line in answer.content:
            if b'"usage"' in line and line.startswith(b"data: {"):
                usage = orjson.loads(line[6:]).get("usage")
                received = usage["completion_tokens"] if usage else received
    return received


def _body(tokens: int, index: int) -> dict[str, object]:
    return {
        "prompt": f"Story {index}: once upon a time",
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": index,
    }


def _single_stream(tokens: int, repeats: int) -> list[float]:
    """Milliseconds that a gap between events takes beyond the simulated step."""
    step_ms = 2.0
    with serve("--engine", "sim", "--sim-step-ms", str(step_ms)) as server:
        asyncio.run(_gaps(server.url, 20))
        return [
            statistics.median(asyncio.run(_gaps(server.url, tokens))) * 1e3 - step_ms for _ in range(repeats)
        ]


async def _gaps(url: str, tokens: int) -> list[float]:
    """Seconds between the events of one stream."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/completions", json=_body(tokens, 0)) as answer,
    ):
        times = [time.perf_counter() async for line in answer.content if line.startswith(b"data: {")]
    return [later - earlier for earlier, later in pairwise(times)]
