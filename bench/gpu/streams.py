"""Streams through the real server, started as a child: what a client gets, in words that are token ids.

Responsible for: the server's flags, the client, and reading tokens back out of text (a shape's tokenizer has one
word a token). Leaves to others: what the tokens should be.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence

import aiohttp

from bench.gpu.drive import Answer, Ids, Outcome
from bench.gpu.shapes import ModelShape, folder
from bench.serving import serve


def serve_streams(
    shape: ModelShape, prompts: Sequence[Ids], output: int, cuda: bool, small: bool
) -> Iterator[tuple[str, Outcome]]:
    """One stream, then all at once; the first round only warms up. Raises AssertionError when no server starts."""
    flags = ["--model", str(folder(shape)), "--load-format", "dummy", "--max-num-seqs", "64"]
    if small:
        flags += ["--kv-cache-memory", str(16384 * shape.kv_bytes), "--max-num-batched-tokens", "512"]
        flags += ["--num-threads", "1"]
    else:
        flags += ["--max-num-batched-tokens", "8192", "--max-model-len", "8192"]
    flags += ["--device", "cuda" if cuda else "cpu"]
    with serve(*flags) as server:
        asyncio.run(_streams(server.url, prompts, output))
        yield "single", asyncio.run(_streams(server.url, prompts[:1], output))
        yield f"{len(prompts)} at once", asyncio.run(_streams(server.url, prompts, output))


async def _streams(url: str, prompts: Sequence[Ids], output: int) -> Outcome:
    """All prompts at the same time, under a salt of their own: nothing is cached."""
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        begun = time.perf_counter()
        answers = await asyncio.gather(*(_stream(session, url, ids, output, begun) for ids in prompts))
        return Outcome(dict(enumerate(answers)), [], time.perf_counter() - begun)


async def _stream(session: aiohttp.ClientSession, url: str, ids: Ids, output: int, begun: float) -> Answer:
    request = {
        "prompt": list(ids),
        "max_tokens": output,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "cache_salt": str(begun),
    }
    answer, text = Answer(), ""
    async with session.post(f"{url}/v1/completions", json=request) as response:
        if response.status != 200:
            raise RuntimeError(f"the server answered {response.status}: {await response.text()}")
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            choice = json.loads(line[6:])["choices"][0]
            answer.last_s = time.perf_counter() - begun
            answer.first_s = answer.first_s or answer.last_s
            text += choice["text"]
            answer.ended = choice["finish_reason"] or answer.ended
    answer.tokens = [int(word[1:]) for word in text.split()]
    return answer
