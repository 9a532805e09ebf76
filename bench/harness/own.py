"""Our own client: so many at a time, each with one streamed completion after the other."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from dataclasses import dataclass, field

import aiohttp

from bench.harness.figures import OUTPUT_TOKENS, PROMPT_TOKENS, Figures, Load


@dataclass(slots=True)
class _Run:
    session: aiohttp.ClientSession
    url: str
    until: float
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    tokens: int = 0

    async def client(self) -> None:
        while time.perf_counter() < self.until:
            await self._request(next(self.numbers))

    async def _request(self, number: int) -> None:
        begun, first, last = time.perf_counter(), 0.0, 0.0
        async with self.session.post(self.url + "/v1/completions", json=body(number)) as answer:
            async for line in answer.content:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line.removeprefix(b"data: "))
                if event["choices"]:
                    last = time.perf_counter()
                    first = first or last
                else:
                    self.tokens += event["usage"]["completion_tokens"]
        self.first.append(first - begun)
        self.between.append((last - first) / (OUTPUT_TOKENS - 1))


def body(number: int) -> dict[str, object]:
    """A prompt that nobody has sent before."""
    prompt = [400 + (number * 7919 + at * (number + 1)) % 2000 for at in range(PROMPT_TOKENS)]
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    return {
        "prompt": prompt,
        "max_tokens": OUTPUT_TOKENS,
        "ignore_eos": True,
        "skip_special_tokens": False,
        **usage,
    }


def run(load: Load) -> Figures:
    """For as long as the load says."""
    return asyncio.run(_run(load))


async def _run(load: Load) -> Figures:
    begun = time.perf_counter()
    async with aiohttp.ClientSession() as session:
        run = _Run(session, load.url, begun + load.seconds)
        await asyncio.gather(*(run.client() for _ in range(load.users)))
    return Figures(
        requests=len(run.first),
        output_tokens=run.tokens,
        tokens_per_s=run.tokens / (time.perf_counter() - begun),
        ttft_ms=1e3 * sum(run.first) / len(run.first),
        inter_token_ms=1e3 * sum(run.between) / len(run.between),
    )
