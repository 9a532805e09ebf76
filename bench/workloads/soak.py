"""Mixed requests with clients that leave and cancel, perhaps with engines that are killed and stopped meanwhile.

Asserts what holds however long it runs: every request ends; texts equal those of an undisturbed server; all KV
blocks come back; and the server's memory after all of it is at most 20 MB above that after a quarter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from bench.serving import Server, serve
from bench.stats import write_json

PROMPTS = tuple(
    f"Once upon a time there were {number} friends who told each other " * 6 for number in range(16)
)
MAX_TOKENS = 40
ENDLESS = {"max_tokens": 20_000, "ignore_eos": True}
MAX_GROWTH_MB = 20.0
FAULT_EVERY_S = 2.0
"""On average. An engine needs half a second to come back; hit faster than that, it is given up for a while."""


@dataclass(slots=True)
class Soak:
    """One run's state. `outcomes` counts (kind, status or what happened); `wrong` are what may not be."""

    session: aiohttp.ClientSession
    url: str
    random: random.Random
    expected: dict[str, str] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def learn(self) -> None:
        """What each prompt gives while nothing is wrong."""
        for prompt in PROMPTS:
            async with self.session.post(f"{self.url}/v1/completions", json=_greedy(prompt)) as answer:
                self.expected[prompt] = (await answer.json())["choices"][0]["text"]

    async def request(self) -> None:
        kinds: list[Callable[[], Awaitable[str]]] = [
            *[self._complete] * 4,
            *[self._stream] * 4,
            *[self._leave_stream] * 3,
            *[self._leave_plain] * 2,
            *[self._cancel] * 2,
            *[self._program] * 3,
            *[self._session] * 2,
        ]
        kind = self.random.choice(kinds)
        try:
            async with asyncio.timeout(120):
                outcome = await kind()
        except TimeoutError:
            outcome = "hangs"
            self.wrong.append(f"{kind.__name__} hangs")
        except aiohttp.ClientError as error:
            outcome = type(error).__name__
            self.wrong.append(f"{kind.__name__}: {error!r}")
        self.outcomes[f"{kind.__name__.strip('_')} {outcome}"] += 1

    async def _complete(self) -> str:
        prompt = self.random.choice(PROMPTS)
        async with self.session.post(f"{self.url}/v1/completions", json=_greedy(prompt)) as answer:
            body = await answer.json()
            if answer.status == 200:
                self._compare(prompt, body["choices"][0]["text"])
            return self._status(answer.status)

    async def _stream(self) -> str:
        prompt, text = self.random.choice(PROMPTS), ""
        async with self.session.post(
            f"{self.url}/v1/completions", json=_greedy(prompt, stream=True)
        ) as answer:
            if answer.status != 200:
                return self._status(answer.status)
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    event = json.loads(line.removeprefix(b"data: "))
                    if "error" in event:
                        return f"error {event['error']['code']}"
                    text += event["choices"][0]["text"]
        self._compare(prompt, text)
        return "200"

    async def _leave_stream(self) -> str:
        body = {"prompt": self.random.choice(PROMPTS), **ENDLESS, "stream": True}
        async with self.session.post(f"{self.url}/v1/completions", json=body) as answer:
            for _ in range(self.random.randrange(8)):
                await answer.content.readline()
            answer.close()
            return "left" if answer.status == 200 else self._status(answer.status)

    async def _leave_plain(self) -> str:
        body = {"prompt": self.random.choice(PROMPTS), **ENDLESS}
        try:
            async with (
                asyncio.timeout(self.random.uniform(0.0, 0.05)),
                self.session.post(f"{self.url}/v1/completions", json=body) as answer,
            ):
                return self._status(answer.status)
        except TimeoutError:
            return "left"

    async def _cancel(self) -> str:
        id = f"soak-{self.random.getrandbits(64):x}"
        body = {"prompt": self.random.choice(PROMPTS), **ENDLESS, "stream": True, "request_id": id}
        async with self.session.post(f"{self.url}/v1/completions", json=body) as answer:
            if answer.status != 200:
                return self._status(answer.status)
            await answer.content.readline()
            async with self.session.post(f"{self.url}/v1/requests/{id}/cancel") as cancelled:
                self._status(cancelled.status)
            await answer.content.read()
            return "cancelled"

    async def _program(self) -> str:
        unique = self.random.getrandbits(32)
        output = {"in_out": True, "sampling": {"max_tokens": 8, "ignore_eos": True}}
        calls = [
            {"prompt": f"{unique} {{{{output:a}}}}", "placeholders": [{"name": "a", **output}]},
            {"prompt": "Then {{input:a}} {{output:b}}", "placeholders": [{"name": "b", **output}]},
        ]
        async with self.session.post(f"{self.url}/v1/programs", json={"calls": calls}) as answer:
            body = await answer.json()
            if answer.status == 424:
                return f"424 {body['error']['code']}"
            return self._status(answer.status)

    async def _session(self) -> str:
        async with self.session.post(f"{self.url}/v1/sessions", json={}) as made:
            if made.status != 201:
                return self._status(made.status)
            path = f"{self.url}/v1/sessions/{(await made.json())['id']}"
        call = {
            "prompt": "On {{output:a}}",
            "placeholders": [{"name": "a", "in_out": True, "sampling": ENDLESS}],
        }
        async with self.session.post(f"{path}/calls", json=call) as submitted:
            self._status(submitted.status)
        async with self.session.delete(path) as deleted:
            return self._status(deleted.status)

    def _compare(self, prompt: str, text: str) -> None:
        if text != self.expected[prompt]:
            self.wrong.append(f"{text!r} is not {self.expected[prompt]!r}")

    def _status(self, status: int) -> str:
        """Refusals and engine failures are answers; a bug is not."""
        if status not in (200, 201, 202, 410, 429, 500, 503):
            self.wrong.append(f"status {status}")
        return str(status)


async def _run(server: Server, args: argparse.Namespace) -> tuple[Soak, list[float], int]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        soak = Soak(session, server.url, random.Random(args.seed))
        await soak.learn()
        faults = asyncio.create_task(_disturb(server, args.faults, random.Random(args.seed)))
        memory = []
        quarter = args.requests // 4
        for count in (quarter, args.requests - quarter):
            numbers = iter(range(count))
            await asyncio.gather(*(_client(soak, numbers) for _ in range(args.clients)))
            memory.append(_resident_mb(server.process.pid))
        await asyncio.gather(*(_until(faults, soak) for _ in range(args.clients)))
        done = await faults
    return soak, memory, done


async def _client(soak: Soak, numbers: Iterator[int]) -> None:
    for _ in numbers:
        await soak.request()


async def _until(faults: asyncio.Task[int], soak: Soak) -> None:
    while not faults.done():
        await soak.request()


async def _disturb(server: Server, count: int, chance: random.Random) -> int:
    """Signals to engines, one every so often; an engine that is between two lives is not there to be hit."""
    done = 0
    while done < count:
        await asyncio.sleep(chance.uniform(0.0, 2 * FAULT_EVERY_S))
        engines = server.engine_pids()
        if engines:
            number = chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP))
            try:
                os.kill(chance.choice(engines), number)
            except ProcessLookupError:
                continue
            done += 1
    return done


def _resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _greedy(prompt: str, **more: object) -> dict[str, object]:
    return {"prompt": prompt, "max_tokens": MAX_TOKENS, "ignore_eos": True, "temperature": 0, **more}


def _settled(server: Server) -> bool:
    """All blocks are free, and nothing runs or waits on an engine."""
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    deadline = time.monotonic() + 15
    while any(server.metric(f"vllm:{name}") for name in names):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)  # it can only be observed by asking again
    return True


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--faults", type=int, default=0, help="signals to engines, one every 2 s")
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--flags", nargs=argparse.REMAINDER, default=[], help="more flags of the server, last"
    )
    args = parser.parse_args(argv)
    flags = ("--engine", "sim", "--engines", str(args.engines), "--step-timeout", "1", *args.flags)
    begun = time.perf_counter()
    with serve(*flags) as server:
        soak, memory, faults = asyncio.run(_run(server, args))
        free = _settled(server)
    seconds = time.perf_counter() - begun
    growth = memory[1] - memory[0]
    result = {"outcomes": dict(soak.outcomes), "wrong": soak.wrong, "resident_mb": memory, "faults": faults}
    path = write_json("soak", result)
    for outcome, count in sorted(soak.outcomes.items()):
        print(f"  {count:6} {outcome}")
    for what in soak.wrong[:10]:
        print(f"  wrong: {what}")
    ok = free and not soak.wrong and growth <= MAX_GROWTH_MB
    print(
        f"soak requests {soak.outcomes.total()} faults {faults} seconds {seconds:.0f} resident_mb {memory[0]:.0f} "
        f"-> {memory[1]:.0f} blocks {'all free' if free else 'NOT all free'} {'ok' if ok else 'FAILED'} {path}"
    )
    return 0 if ok else 1
