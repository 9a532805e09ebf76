"""What a program costs above a plain request, and what a long one costs to take: parts of `scheduler_cpu`.

first token   of a program of one call and of the same /v1/completions, streamed, in turns, on a simulated engine
submit        plan and apply of a chain of 10,000 calls, with all that follows from it in the server but HTTP
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from bench.serving import serve
from parrot import wire
from server.graph.forecast import Forecast
from server.lengths import Lengths, template_of
from server.sampling import SamplingModel
from server.session.plan import Environment
from server.session.session import Session

PROMPT = "Once upon a time there was a parrot who could not sing."
STEP_MS = 5.0
WARM_UP = 10


@dataclass(frozen=True, slots=True)
class FirstTokens:
    """Milliseconds, of each request in order."""

    program: Sequence[float]
    completion: Sequence[float]


def first_tokens(requests: int) -> FirstTokens:
    with serve("--engine", "sim", "--sim-step-ms", str(STEP_MS), "--disable", "call-dedup") as server:
        return asyncio.run(_first_tokens(server.url, requests))


async def _first_tokens(url: str, requests: int) -> FirstTokens:
    program: list[float] = []
    completion: list[float] = []
    async with aiohttp.ClientSession() as session:
        for index in range(WARM_UP + requests):
            program.append(
                await _first_event(session, f"{url}/v1/programs", _program(index), b"event: variable.delta")
            )
            completion.append(
                await _first_event(session, f"{url}/v1/completions", _completion(index), b"data: {")
            )
    return FirstTokens(program[WARM_UP:], completion[WARM_UP:])


async def _first_event(
    session: aiohttp.ClientSession, url: str, body: dict[str, object], start: bytes
) -> float:
    """Milliseconds from the request to the first line that starts so; the rest is read, so that nothing is cut."""
    begun, first = time.perf_counter(), 0.0
    async with session.post(url, json=body) as answer:
        async for line in answer.content:
            if not first and line.startswith(start):
                first = time.perf_counter()
    return (first - begun) * 1e3


def _sampling(index: int) -> dict[str, object]:
    return {"max_tokens": 3, "ignore_eos": True, "seed": index, "temperature": 1.0}


def _program(index: int) -> dict[str, object]:
    call = {
        "prompt": f"{PROMPT} {index} {{{{output:out}}}}",
        "placeholders": [{"name": "out", "in_out": "out", "sampling": _sampling(index)}],
    }
    return {"calls": [call], "stream": True}


def _completion(index: int) -> dict[str, object]:
    return {"prompt": f"{PROMPT} {index} ", "stream": True, **_sampling(index)}


def submit_seconds(calls: int) -> tuple[float, float]:
    """CPU seconds to plan a chain and to apply it, with the forecast that follows."""
    numbers = itertools.count()
    environment = Environment(
        new_id=lambda kind: f"{kind}_{next(numbers)}",
        draw_seed=lambda: 7,
        render_chat=lambda messages: "",
        check_model=lambda name, param: None,
        sampling=SamplingModel(vocab_size=4096, eos_token_ids=(2,)),
        allow_public=False,
    )
    chain = [
        wire.Call(prompt=f"{PROMPT} Chunk {n}: {{{{input:v{n}}}}} Summary: {{{{output:v{n + 1}}}}}")
        for n in range(calls)
    ]
    session = Session("sess_1", "tenant", 0.0)
    begun = time.thread_time()
    event = session.plan_submit(chain, environment, variables={"v0": "begin"}, get=[f"v{calls}"])
    planned = time.thread_time()
    session.apply(event, 0.0)
    forecast = Forecast()
    lengths = Lengths()
    forecast.add(
        session.graph.tasks.values(), lambda task: lengths.expected("tenant", template_of("tenant", task), 50)
    )
    return planned - begun, time.thread_time() - planned
