"""What the server costs above the engine: CPU per streamed token at many streams, latency at one.

The engine is simulated, so that all that is measured is ours. Two figures:
  cpu    server process CPU (user + system) over tokens streamed, `--streams` at once
  single median gap between two events of one stream, less the engine's own step time
A server that falls behind its engine sends several tokens in one event, which costs less a token: so the step is
long enough that it does not, and it is told how many events a token had. The clients are processes of their own;
their CPU is not counted, but they share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from itertools import pairwise

import aiohttp
import orjson

from bench.serving import Server, serve
from bench.stats import spread, write_json

STEP_MS = 100.0
"""Of the many streams: a step of a thousand costs the server a third of it or less."""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench overhead", description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=100, help="per stream")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--client", metavar="URL", help=argparse.SUPPRESS)  # this program as a load process
    args = parser.parse_args(argv)
    if args.client:
        print(*asyncio.run(_many(args.client, args.streams, args.tokens)))
        return 0
    loads = _cpu_per_token(args.streams, args.tokens, args.repeats)
    cpu = [load.cpu_us for load in loads]
    events = statistics.median(load.events_per_token for load in loads)
    single = _single_stream(args.tokens * 4, args.repeats)
    path = write_json("overhead", {"loads": [asdict(load) for load in loads], "single_ms_over_step": single})
    ok = statistics.median(cpu) < 30 and statistics.median(single) <= 0.4
    print(
        f"server CPU per token at {args.streams} streams: {spread(cpu)} us (bar 30), {events:.2f} events a token"
    )
    print(f"one stream, gap over the engine's step: {spread(single)} ms (bar 0.4)")
    print(f"overhead cpu_us {statistics.median(cpu):.1f} single_ms {statistics.median(single):.3f} ", end="")
    print(f"n={args.repeats} {'ok' if ok else 'above the bar'} {path}")
    return 0


@dataclass(frozen=True, slots=True)
class Load:
    """One load of many streams. `cpu_us`: of the server, a token."""

    cpu_us: float
    events_per_token: float


def _cpu_per_token(streams: int, tokens: int, repeats: int) -> list[Load]:
    flags = ("--engine", "sim", "--max-num-seqs", str(streams), "--max-num-batched-tokens", str(streams * 8))
    with serve(*flags, "--sim-step-ms", str(STEP_MS), "--kv-cache-memory", "1G") as server:
        _load(server, streams, 8)  # warm-up
        return [_load(server, streams, tokens) for _ in range(repeats)]


def _load(server: Server, streams: int, tokens: int) -> Load:
    before = server.cpu_seconds()
    command = [sys.executable, "-m", "bench", "overhead", "--client", server.url]
    command += ["--streams", str(streams), "--tokens", str(tokens)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    received, events = map(int, answer.stdout.split())
    if received != streams * tokens:
        raise RuntimeError(f"{received} tokens instead of {streams * tokens}")
    return Load((server.cpu_seconds() - before) / received * 1e6, events / received)


async def _many(url: str, streams: int, tokens: int) -> tuple[int, int]:
    """The tokens and the events that came."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        counts = await asyncio.gather(*(_stream(session, url, tokens, index) for index in range(streams)))
    return sum(tokens for tokens, _ in counts), sum(events for _, events in counts)


async def _stream(session: aiohttp.ClientSession, url: str, tokens: int, index: int) -> tuple[int, int]:
    """Tokens by the usage chunk, and the events that carried them."""
    received = events = 0
    async with session.post(f"{url}/v1/completions", json=_body(tokens, index)) as answer:
        async for line in answer.content:
            if b'"usage":{' in line:
                received = orjson.loads(line[6:])["usage"]["completion_tokens"]
            elif line.startswith(b"data: {"):
                events += 1
    return received, events


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
