"""Applications as data, and the two ways to run one: as a program, or one request at a time.

An App is a graph of calls with forced output lengths (`bench.graphs` builds them). `run_as_program` sends it whole;
`run_as_requests` is the client that today's servers need: it renders prompts, sends a completion when the inputs of
a call are there, and pays the network for each. Both sample greedily, so both must end in the same texts.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
class Given:
    """An input whose value the client has: a user's question, a document."""

    name: str
    text: str


Part = str | Ref | Given


@dataclass(frozen=True, slots=True)
class Step:
    """One call: text and inputs, then an output of exactly `max_tokens` tokens."""

    name: str
    prompt: tuple[Part, ...]
    max_tokens: int

    @property
    def inputs(self) -> list[str]:
        return [part.name for part in self.prompt if isinstance(part, Ref)]

    def render(self, outputs: Mapping[str, str]) -> str:
        return "".join(_text(part, outputs) for part in self.prompt)

    def call(self) -> dict[str, object]:
        text = "".join(
            part if isinstance(part, str) else f"{{{{input:{part.name}}}}}" for part in self.prompt
        )
        output = {"name": self.name, "in_out": "out", "sampling": self.sampling}
        return {"prompt": f"{text}{{{{output:{self.name}}}}}", "placeholders": [output]}

    @property
    def sampling(self) -> dict[str, object]:
        return {"temperature": 0, "max_tokens": self.max_tokens, "ignore_eos": True}


def _text(part: Part, outputs: Mapping[str, str]) -> str:
    if isinstance(part, Ref):
        return outputs[part.name]
    return part.text if isinstance(part, Given) else part


@dataclass(frozen=True, slots=True)
class App:
    """`plain`: somebody else's request, which no mode sends as a program. `tpot_ms`: it is read as a stream, and
    wanted at this time per token (infinite: as it comes). `late_s`: the client has what it gives only so many
    seconds after the application's arrival, of a tool or a person."""

    steps: tuple[Step, ...]
    wanted: tuple[str, ...]
    plain: bool = False
    tpot_ms: float | None = None
    late_s: float | None = None

    @property
    def given(self) -> dict[str, str]:
        parts = (part for step in self.steps for part in step.prompt)
        return {part.name: part.text for part in parts if isinstance(part, Given)}

    def program(self) -> dict[str, object]:
        get: dict[str, object] = dict.fromkeys(self.wanted)
        if self.tpot_ms is not None and self.tpot_ms < float("inf"):
            get = {name: {"tpot_ms": self.tpot_ms} for name in self.wanted}
        return {"calls": [step.call() for step in self.steps], "variables": self.given, "get": get}


@dataclass(frozen=True, slots=True)
class Done:
    """How an application ended. `token_ms`: its time per token after the first, of one that was streamed."""

    outputs: Outputs
    token_ms: float | None = None


class Texts:
    """Random text of exactly so many tokens, each of them one word. The same seed makes the same texts."""

    def __init__(self, tokenizer: Tokenizer, seed: int | str) -> None:
        self._tokenizer = tokenizer
        self._words = words(tokenizer)
        self._random = random.Random(seed)

    def make(self, tokens: int) -> str:
        ids = self._random.choices(self._words, k=tokens)
        text: str = self._tokenizer.decode(ids)
        assert self._tokenizer.encode(text).ids == ids
        return text


async def run(
    session: aiohttp.ClientSession, url: str, app: App, network: Network, *, programs: bool
) -> Done:
    """Raises RuntimeError for any answer but 200."""
    if app.tpot_ms is not None:
        return await _run_streamed(session, url, app, network, as_program=programs)
    if programs and app.late_s is not None:
        return Done(await _run_with_late_input(session, url, app, network))
    if programs and not app.plain:
        return Done(await run_as_program(session, url, app, network))
    if app.late_s is not None:
        await asyncio.sleep(app.late_s)
    return Done(await run_as_requests(session, url, app, network))


async def run_as_program(session: aiohttp.ClientSession, url: str, app: App, network: Network) -> Outputs:
    async with network.exchange(), session.post(f"{url}/v1/programs", json=app.program()) as answer:
        body = await answer.json()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {body}")
    return {name: body["values"][name] for name in app.wanted}


async def _run_with_late_input(
    session: aiohttp.ClientSession, url: str, app: App, network: Network
) -> Outputs:
    """A session that knows its calls before the client has all inputs."""

    async def exchange(method: str, path: str, body: object) -> dict[str, Any]:
        async with (
            network.exchange(),
            session.request(method, f"{url}/v1/sessions{path}", json=body) as answer,
        ):
            decoded: dict[str, Any] = await answer.json()
        if answer.status not in (200, 201):
            raise RuntimeError(f"{answer.status}: {decoded}")
        return decoded

    assert app.late_s is not None
    due = asyncio.get_running_loop().time() + app.late_s
    path = "/" + (await exchange("POST", "", {}))["id"]
    await exchange("POST", f"{path}/calls", {"calls": [step.call() for step in app.steps]})
    await asyncio.sleep(due - asyncio.get_running_loop().time())
    for name, value in app.given.items():
        await exchange("PUT", f"{path}/variables/{name}", {"value": value})
    values = (await exchange("POST", f"{path}/get", {"variables": list(app.wanted)}))["values"]
    await exchange("DELETE", path, None)
    return {name: values[name] for name in app.wanted}


async def run_as_requests(session: aiohttp.ClientSession, url: str, app: App, network: Network) -> Outputs:
    outputs: Outputs = {}
    done = {step.name: asyncio.Event() for step in app.steps}

    async def run(step: Step) -> None:
        for name in step.inputs:
            await done[name].wait()
        outputs[step.name] = await complete(session, url, step.render(outputs), step, network)
        done[step.name].set()

    async with asyncio.TaskGroup() as group:
        for step in app.steps:
            group.create_task(run(step))
    return {name: outputs[name] for name in app.wanted}


async def complete(
    session: aiohttp.ClientSession, url: str, prompt: str, step: Step, network: Network
) -> str:
    body = {"prompt": prompt, **step.sampling}
    async with network.exchange(), session.post(f"{url}/v1/completions", json=body) as answer:
        decoded = await answer.json()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {decoded}")
    return str(decoded["choices"][0]["text"])


async def _run_streamed(
    session: aiohttp.ClientSession, url: str, app: App, network: Network, *, as_program: bool
) -> Done:
    """An application of one step, read token by token."""
    (step,) = app.steps
    if as_program:
        path, body = "/v1/programs", app.program() | {"stream": True}
    else:
        path, body = "/v1/completions", {"prompt": step.render({}), "stream": True, **step.sampling}
    texts: list[str] = []
    times: list[float] = []
    async with network.exchange(), session.post(url + path, json=body) as answer:
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {await answer.text()}")
        async for text in _stream_texts(answer):
            times.append(time.perf_counter())
            texts.append(text)
    token_ms = (times[-1] - times[0]) * 1e3 / max(1, step.max_tokens - 1)
    return Done({step.name: "".join(texts)}, token_ms)


async def _stream_texts(answer: aiohttp.ClientResponse) -> AsyncIterator[str]:
    async for line in answer.content:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if "choices" in event:
            text = event["choices"][0]["text"] if event["choices"] else ""
        else:
            text = event["delta"] if event["type"] == "variable.delta" else ""
            if event["type"] == "variable.failed":
                raise RuntimeError(f"{event}")
        if text:
            yield text


def check_lengths(tokenizer: Tokenizer, app: App, outputs: Outputs) -> None:
    """Every output has to be the tokens that were asked for, and no others when it is encoded again. Raises
    RuntimeError."""
    wanted = {step.name: step.max_tokens for step in app.steps}
    for name, text in outputs.items():
        ids = tokenizer.encode(text).ids
        if len(ids) != wanted[name] or tokenizer.decode(ids) != text:
            raise RuntimeError(f"{name}: {len(ids)} tokens, not {wanted[name]}: {text!r}")


def check_same(one: Sequence[Outputs], other: Sequence[Outputs]) -> None:
    """Every mode has to end in the same texts. Raises RuntimeError."""
    for index, (mine, theirs) in enumerate(zip(one, other, strict=True)):
        if mine != theirs:
            raise RuntimeError(f"app {index}: the modes differ:\n{mine}\n{theirs}")
