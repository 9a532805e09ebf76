"""The loads of B14, as streamed completions, and what a client sees of them.

A request's prompt is ids of whole words, so that its text is the same prompt. Every answer has to have as many
tokens as asked, and the server has to have counted as many in the prompt; a stream whose chunks came all at once is
no measurement, and is refused.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import aiohttp
import orjson
from tokenizers import Tokenizer

from bench.peers.contestants import Contestant
from bench.peers.processes import Peer

LEAST_MS = 0.05
"""Milliseconds a token below which no model was computed: the chunks came together."""


class Unusable(RuntimeError):
    """A run that measures the client, not the server."""


@dataclass(frozen=True, slots=True)
class Load:
    """`requests` prompts of `shared` + `own` tokens, `at_once` in flight, `output` tokens each."""

    name: str
    requests: int
    at_once: int
    shared: int
    own: int
    output: int

    def prompts(self, vocabulary: Sequence[int], seed: str) -> list[list[int]]:
        rng = random.Random(f"{self.name} {seed}")
        common = rng.choices(vocabulary, k=self.shared)
        return [common + rng.choices(vocabulary, k=self.own) for _ in range(self.requests)]


LOADS = (
    Load("single", 1, 1, 0, 128, 128),
    Load("concurrent", 64, 16, 0, 128, 64),
    Load("shared", 64, 64, 1024, 32, 32),
    Load("long", 8, 4, 0, 1500, 8),
)


@dataclass(slots=True)
class Streamed:
    """One request: seconds to its first chunk, between chunks, and from the first chunk to the last."""

    ttft: float
    gaps: list[float]
    tokens: int

    @property
    def per_token_ms(self) -> float:
        return sum(self.gaps) / max(1, self.tokens - 1) * 1e3


@dataclass(slots=True)
class Run:
    """One load on one server. cpu: seconds of each process, the client's among them."""

    seconds: float
    requests: list[Streamed]
    cpu: dict[str, float] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return sum(request.tokens for request in self.requests)


async def run(
    load: Load, prompts: Sequence[list[int]], tokenizer: Tokenizer, contestant: Contestant, peer: Peer
) -> Run:
    """Raises Unusable, or RuntimeError where an answer is not what was asked for."""
    bodies = [_body(ids, load.output, tokenizer, contestant) for ids in prompts]
    expected = load.shared + load.own
    waiting = iter(bodies)
    done: list[Streamed] = []
    before, client = peer.cpu_seconds(), time.process_time()
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

        async def worker() -> None:
            for body in waiting:  # one after the other: the next is taken when this one has ended
                answered = await _stream(session, peer.url, body, expected, load.output)
                done.append(answered)

        begun = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(load.at_once)))
        seconds = time.perf_counter() - begun
    cpu = {role: now - before.get(role, 0.0) for role, now in peer.cpu_seconds().items()}
    cpu["client"] = time.process_time() - client
    result = Run(seconds, done, cpu)
    slowest = max(request.per_token_ms for request in done)
    if slowest < LEAST_MS:
        raise Unusable(f"{contestant.name} {load.name}: {slowest:.4f} ms a token; the chunks came at once")
    return result


def _body(ids: list[int], output: int, tokenizer: Tokenizer, contestant: Contestant) -> bytes:
    request: dict[str, object] = {
        "model": contestant.model,
        "prompt": tokenizer.decode(ids) if contestant.text else ids,
        "max_tokens": output,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if contestant.forced:
        request["ignore_eos"] = True
    return orjson.dumps(request)


async def _stream(
    session: aiohttp.ClientSession, url: str, body: bytes, prompt: int, output: int
) -> Streamed:
    times = [time.perf_counter()]
    usage: dict[str, int] | None = None
    headers = {"Content-Type": "application/json"}
    async with session.post(f"{url}/v1/completions", data=body, headers=headers) as answer:
        if answer.status != 200:
            raise RuntimeError(f"{url}: {answer.status}: {(await answer.text())[:500]}")
        async for line in answer.content:
            if not line.startswith(b"data: {"):
                continue
            arrived = time.perf_counter()
            event = orjson.loads(line[6:])
            if event.get("error"):
                raise RuntimeError(f"{url}: {event['error']}")
            if event.get("choices") and event["choices"][0].get("text"):
                times.append(arrived)
            usage = event.get("usage") or usage
    if usage is None or usage["completion_tokens"] != output or usage["prompt_tokens"] != prompt:
        raise RuntimeError(f"{url}: asked for {prompt} + {output} tokens, and was told {usage}")
    if len(times) < 2:
        raise RuntimeError(f"{url}: {output} tokens without a chunk of text")
    return Streamed(times[1] - times[0], [b - a for a, b in pairwise(times[1:])], output)
