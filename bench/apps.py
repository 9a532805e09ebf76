"""Applications as data, and the two ways to run one: as a program, or one request at a time.

An App is a graph of calls with forced output lengths. `run_as_program` sends it whole; `run_as_requests` is the
client that today's servers need: it renders prompts, sends a completion when the inputs of a call are there, and
pays the network for each. Both sample greedily, so both must end in the same texts.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp
from tokenizers import Tokenizer

from bench.checkpoint import words
from bench.network import Network

Outputs = dict[str, str]


@dataclass(frozen=True, slots=True)
class Ref:
    """An input: the output of the step with this name."""

    name: str


@dataclass(frozen=True, slots=True)
class Step:
    """One call: text and inputs, then an output of exactly `max_tokens` tokens."""

    name: str
    prompt: tuple[str | Ref, ...]
    max_tokens: int

    @property
    def inputs(self) -> list[str]:
        return [part.name for part in self.prompt if isinstance(part, Ref)]

    def render(self, outputs: Mapping[str, str]) -> str:
        return "".join(outputs[part.name] if isinstance(part, Ref) else part for part in self.prompt)

    def call(self) -> dict[str, object]:
        text = "".join(f"{{{{input:{p.name}}}}}" if isinstance(p, Ref) else p for p in self.prompt)
        sampling = {"temperature": 0, "max_tokens": self.max_tokens, "ignore_eos": True}
        output = {"name": self.name, "in_out": "out", "sampling": sampling}
        return {"prompt": f"{text}{{{{output:{self.name}}}}}", "placeholders": [output]}


@dataclass(frozen=True, slots=True)
class App:
    steps: tuple[Step, ...]
    wanted: tuple[str, ...]

    def program(self) -> dict[str, object]:
        return {"calls": [step.call() for step in self.steps], "get": list(self.wanted)}


class Texts:
    """Random text of exactly so many tokens, each of them one word."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self._tokenizer = tokenizer
        self._words = words(tokenizer)
        self._random = random.Random(seed)

    def make(self, tokens: int) -> str:
        ids = self._random.choices(self._words, k=tokens)
        text: str = self._tokenizer.decode(ids)
        assert self._tokenizer.encode(text).ids == ids
        return text


def chain(texts: Texts, steps: int, chunk: int, output: int) -> App:
    """Chain summary: each call reads the summary so far and the next chunk of `chunk` tokens."""
    calls = [Step("s0", (texts.make(chunk),), output)]
    calls += [Step(f"s{i}", (Ref(f"s{i - 1}"), texts.make(chunk)), output) for i in range(1, steps)]
    return App(tuple(calls), (calls[-1].name,))


def map_reduce(texts: Texts, maps: int, chunk: int, output: int) -> App:
    """Summarise every chunk, then summarise the summaries."""
    calls = [Step(f"m{i}", (texts.make(chunk),), output) for i in range(maps)]
    reduce = Step("reduce", (texts.make(8), *(Ref(call.name) for call in calls)), output)
    return App((*calls, reduce), ("reduce",))


async def run_as_program(session: aiohttp.ClientSession, url: str, app: App, network: Network) -> Outputs:
    async with network.exchange(), session.post(f"{url}/v1/programs", json=app.program()) as answer:
        body = await answer.json()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {body}")
    return {name: body["values"][name] for name in app.wanted}


async def run_as_requests(session: aiohttp.ClientSession, url: str, app: App, network: Network) -> Outputs:
    outputs: Outputs = {}
    done = {step.name: asyncio.Event() for step in app.steps}

    async def run(step: Step) -> None:
        for name in step.inputs:
            await done[name].wait()
        outputs[step.name] = await complete(session, url, step.render(outputs), step.max_tokens, network)
        done[step.name].set()

    async with asyncio.TaskGroup() as group:
        for step in app.steps:
            group.create_task(run(step))
    return {name: outputs[name] for name in app.wanted}


async def complete(
    session: aiohttp.ClientSession, url: str, prompt: str, max_tokens: int, network: Network
) -> str:
    body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    async with network.exchange(), session.post(f"{url}/v1/completions", json=body) as answer:
        decoded = await answer.json()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {decoded}")
    return str(decoded["choices"][0]["text"])


def check_same(one: Sequence[Outputs], other: Sequence[Outputs]) -> None:
    """Every mode has to end in the same texts. Raises RuntimeError."""
    for index, (mine, theirs) in enumerate(zip(one, other, strict=True)):
        if mine != theirs:
            raise RuntimeError(f"app {index}: the modes differ:\n{mine}\n{theirs}")
