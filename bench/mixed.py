"""Mixed requests of clients that also leave and cancel, and what may come of each.

Responsible for: one request of each kind (plain and streamed completions, programs, sessions; read to the end,
left, reset, cancelled), and for noticing what may not be: a hang, an answer neither right nor a clear error, a
text that differs from the undisturbed one, a variable that does not end. What else happens is others'.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

PROMPTS = tuple(
    f"Once upon a time there were {number} friends who told each other " * 6 for number in range(16)
)
MAX_TOKENS = 40
PATIENCE_S = 120.0
RIGHT = (200, 201, 410, 424, 429, 500, 503)
"""Refusals and failures of engines are answers, as long as they are clear; a bug of the server is not."""


@dataclass(slots=True)
class MixedLoad:
    """One run's state. `outcomes` counts (kind, status or what happened); `wrong` are what may not be.

    `endless`: of tokens, for requests that are left. `poison`: a token that kills engines, or None. `patience_s`:
    what takes longer hangs.
    """

    session: aiohttp.ClientSession
    url: str
    random: random.Random
    endless: int
    poison: int | None = None
    patience_s: float = PATIENCE_S
    texts: dict[str, str] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def learn(self) -> None:
        """What each prompt and program gives while nothing is wrong."""
        for prompt in PROMPTS:
            answer = await self._json("POST", "/v1/completions", _greedy(prompt))
            self.texts[prompt] = answer["choices"][0]["text"]
            program = await self._json("POST", "/v1/programs", _program(prompt))
            self.texts["program " + prompt] = program["values"]["b"]

    async def run(self, count: int, clients: int) -> None:
        """`count` requests, by so many clients at a time."""
        numbers = iter(range(count))
        await asyncio.gather(*(self._client(numbers) for _ in range(clients)))

    async def run_while(self, task: asyncio.Task[Any], clients: int) -> None:
        async def client() -> None:
            while not task.done():
                await self._request()

        await asyncio.gather(*(client() for _ in range(clients)))

    async def _client(self, numbers: Iterator[int]) -> None:
        for _ in numbers:
            await self._request()

    async def _request(self) -> None:
        kinds: list[Callable[[], Awaitable[str]]] = [
            *[self._complete] * 4,
            *[self._stream] * 4,
            *[self._leave_stream] * 2,
            self._reset_stream,
            *[self._leave_plain] * 2,
            *[self._cancel] * 2,
            *[self._program] * 2,
            self._values,
            *[self._delete] * 2,
        ]
        if self.poison is not None and self.random.random() < 1e-3:
            kinds = [self._poison]
        kind = self.random.choice(kinds)
        name = kind.__name__.strip("_")
        try:
            async with asyncio.timeout(self.patience_s):
                outcome = await kind()
        except TimeoutError:
            outcome = "hangs"
            self.wrong.append(f"{name} hangs")
        except aiohttp.ClientError as error:
            outcome = type(error).__name__
            self.wrong.append(f"{name}: {error!r}")
        self.outcomes[f"{name} {outcome}"] += 1

    async def _complete(self) -> str:
        prompt = self.random.choice(PROMPTS)
        async with self._post("/v1/completions", _greedy(prompt)) as answer:
            body = await answer.json()
            if answer.status == 200:
                self._compare(prompt, body["choices"][0]["text"])
            return self._checked(answer.status, body)

    async def _stream(self) -> str:
        prompt, text = self.random.choice(PROMPTS), ""
        async with self._post("/v1/completions", _greedy(prompt, stream=True)) as answer:
            if answer.status != 200:
                return self._checked(answer.status, await answer.json())
            done = False
            async for line in answer.content:
                done = done or line.startswith(b"data: [DONE]")
                if line.startswith(b"data: {"):
                    event = json.loads(line.removeprefix(b"data: "))
                    if "error" in event:
                        return self._checked(200, event)
                    text += event["choices"][0]["text"]
        if not done:
            self.wrong.append("a stream ended without [DONE]")
        self._compare(prompt, text)
        return "200"

    async def _leave_stream(self) -> str:
        async with self._post("/v1/completions", self._long(stream=True)) as answer:
            for _ in range(self.random.randrange(8)):
                await answer.content.readline()
            answer.close()
            return "left" if answer.status == 200 else self._checked(answer.status, None)

    async def _reset_stream(self) -> str:
        """As if the client's machine had gone: RST instead of FIN."""
        async with self._post("/v1/completions", self._long(stream=True)) as answer:
            await answer.content.readline()
            if answer.connection is not None and answer.connection.transport is not None:
                there: socket.socket = answer.connection.transport.get_extra_info("socket")
                there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            answer.close()
            return "reset" if answer.status == 200 else self._checked(answer.status, None)

    async def _leave_plain(self) -> str:
        try:
            async with (
                asyncio.timeout(self.random.uniform(0.0, 0.05)),
                self._post("/v1/completions", self._long()) as answer,
            ):
                return self._checked(answer.status, await answer.json())
        except TimeoutError:
            return "left"

    async def _cancel(self) -> str:
        id = f"mixed-{self.random.getrandbits(64):x}"
        async with self._post("/v1/completions", self._long(stream=True, request_id=id)) as answer:
            if answer.status != 200:
                return self._checked(answer.status, await answer.json())
            await answer.content.readline()
            async with self._post(f"/v1/requests/{id}/cancel") as cancelled:
                if cancelled.status not in (200, 404):  # 404: it had failed by then
                    self._checked(cancelled.status, await cancelled.json())
            await answer.content.read()
            return "cancelled"

    async def _program(self) -> str:
        prompt = self.random.choice(PROMPTS)
        async with self._post("/v1/programs", _program(prompt)) as answer:
            body = await answer.json()
            if answer.status == 200:
                self._compare("program " + prompt, body["values"]["b"])
            return self._checked(answer.status, body)

    async def _values(self) -> str:
        """A session whose variables are waited for: each is ready or has failed."""
        prompt = self.random.choice(PROMPTS)
        async with self._session() as path:
            if path is None:
                return "refused"
            async with self._post(path + "/calls", {"calls": _program(prompt)["calls"]}) as submitted:
                if submitted.status != 201:
                    return self._checked(submitted.status, await submitted.json())
            wanted = {"variables": ["a", "b"], "wait": min(self.patience_s, 300.0)}
            async with self._post(path + "/get", wanted) as answer:
                body = await answer.json()
                if answer.status == 200:
                    self._compare("program " + prompt, body["values"]["b"])
                return self._checked(answer.status, body)

    async def _delete(self) -> str:
        """A session that is deleted while its call runs."""
        async with self._session() as path:
            if path is None:
                return "refused"
            sampling = {"max_tokens": self.endless, "ignore_eos": True}
            call = {"prompt": "On {{output:a}}", "placeholders": [{"name": "a", "sampling": sampling}]}
            async with self._post(path + "/calls", call) as submitted:
                return self._checked(submitted.status, await submitted.json())

    async def _poison(self) -> str:
        async with self._post("/v1/completions", {"prompt": [5, self.poison], "max_tokens": 5}) as answer:
            if answer.status == 200:
                self.wrong.append("poison was answered")
            return self._checked(answer.status, await answer.json())

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[str | None]:
        """A session's path, for as long as it is needed; None when it was refused."""
        async with self._post("/v1/sessions", {}) as made:
            path = f"/v1/sessions/{(await made.json())['id']}" if made.status == 201 else None
        yield path
        if path is not None:
            async with self.session.delete(self.url + path) as deleted:
                self._checked(deleted.status, await deleted.json())

    def _post(self, path: str, body: object = None) -> Any:
        return self.session.post(self.url + path, json=body)

    async def _json(self, method: str, path: str, body: object) -> Any:
        async with self.session.request(method, self.url + path, json=body) as answer:
            return await answer.json()

    def _long(self, **more: object) -> dict[str, object]:
        prompt = self.random.choice(PROMPTS)
        return {"prompt": prompt, "max_tokens": self.endless, "ignore_eos": True, **more}

    def _compare(self, name: str, text: str) -> None:
        if text != self.texts[name]:
            self.wrong.append(f"{text!r} is not {self.texts[name]!r}")

    def _checked(self, status: int, body: Any) -> str:
        """The outcome's name. A body None was not read."""
        if status not in RIGHT:
            self.wrong.append(f"status {status}: {body}")
        error = body.get("error") if isinstance(body, dict) else None
        if error is None:
            return str(status)
        if not error["message"] or error["code"] == "internal_error":
            self.wrong.append(f"status {status}: {error}")
        return f"{status} {error['code']}"


def _greedy(prompt: str, **more: object) -> dict[str, object]:
    return {"prompt": prompt, "max_tokens": MAX_TOKENS, "ignore_eos": True, "temperature": 0, **more}


def _program(prompt: str) -> dict[str, Any]:
    sampling = {"max_tokens": 8, "ignore_eos": True, "temperature": 0}
    calls = [
        {"prompt": prompt + "{{output:a}}", "placeholders": [{"name": "a", "sampling": sampling}]},
        {"prompt": "Then {{input:a}} {{output:b}}", "placeholders": [{"name": "b", "sampling": sampling}]},
    ]
    return {"calls": calls, "get": ["a", "b"]}
