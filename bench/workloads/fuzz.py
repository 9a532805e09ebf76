"""Requests at random against a real server: nothing is a 5xx, nothing hangs, and the next client is served.

A case is a function of the seed and its number, and is sent on a connection of its own, many at a time. After each
batch a canary must be answered rightly; after all of them the engines are free and the server holds as many tasks
and sockets as before. `--only N` sends one case again and prints it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from bench.fuzzing import cases, client, values
from bench.serving import Server, serve
from bench.stats import write_json

KEY = "fuzz"
BATCH = 200
LENGTH = 512  # of the context: what asks for everything ends soon
GAUGES = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "parrot:generations",
)
KEPT_S = 2.0
SLOW_S = 5.0  # worth a look, not wrong by itself
MORE_TASKS = 2.0
SETTLED_S = 15.0
COMMON = ("--api-key", KEY, "--open-metrics", "--client-timeout", "1")
SIM: tuple[str, ...] = ("--engine", "sim", "--sim-step-ms", "0.2", "--max-model-len", str(LENGTH))
MODEL: tuple[str, ...] = ("--max-model-len", "256", "--step-timeout", "30")


@dataclass(slots=True)
class Campaign:
    """`found`: what went wrong, with the case's number."""

    url: str
    seed: int
    statuses: Counter[int] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)
    slow: dict[int, float] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    canary: str | None = None

    async def run(self, first: int, count: int) -> None:
        for begin in range(first, first + count, BATCH):
            ids = await self._ids()
            numbers = range(begin, min(begin + BATCH, first + count))
            await asyncio.gather(*(self._one(cases.make(self.seed, number, KEY), ids) for number in numbers))
            await self._check_canary(begin)
            await self._json("DELETE", f"/v1/sessions/{ids['@session@']}")
            if sys.stderr.isatty():
                print(
                    f"\r{begin + BATCH - first} of {count}, found {len(self.found)}", end="", file=sys.stderr
                )

    async def replay(self, number: int) -> None:
        case, ids = cases.make(self.seed, number, KEY), await self._ids()
        print(case.wire(ids)[:10_000])
        reply = await self._one(case, ids)
        print(reply)

    async def _one(self, case: cases.Case, ids: dict[str, str]) -> client.Reply | None:
        data, begun = case.wire(ids | {"@new@": f"new.{case.number}"}), time.perf_counter()
        try:
            kept_s = KEPT_S if case.framing == "raw" else None
            reply = await client.exchange(self.url, data, half_close=case.half_close, kept_s=kept_s)
        except TimeoutError:
            self._report(case, "hangs")
            return None
        self.statuses[reply.status] += 1
        if (seconds := time.perf_counter() - begun) > SLOW_S:
            self.slow[case.number] = seconds
        problem = client.complaint(reply, lawful=case.lawful, head_only=data.startswith(b"HEAD"))
        if problem is not None:
            self._report(case, f"{problem}: {reply.body[:200]!r}")
        return reply

    def _report(self, case: cases.Case, problem: str) -> None:
        self.found.append(
            f"{case.number} {case.endpoint.method} {case.endpoint.path} ({case.framing}): {problem}"
        )

    async def _ids(self) -> dict[str, str]:
        """A session with a value and a call, and a program, for a batch to play with."""
        session = (await self._json("POST", "/v1/sessions", {}))["id"]
        path = f"/v1/sessions/{session}"
        variable = (await self._json("PUT", path + "/variables/v", {"value": "x"}))["id"]
        call = {"prompt": "Once {{output:a}}", "placeholders": [{"name": "a", "sampling": {"max_tokens": 3}}]}
        submitted = (await self._json("POST", path + "/calls", call))["calls"][0]["id"]
        program = (await self._json("POST", "/v1/programs", {"calls": [call], "wait": 0}))["id"]
        response = (await self._json("POST", "/v1/responses", {"input": "Hi", "max_output_tokens": 16}))["id"]
        spare = (await self._json("POST", "/v1/sessions", {"ttl": 60}))["id"]  # for a case to end
        ids = (session, variable, submitted, program, response, spare)
        return dict(zip(values.MARKS, ids, strict=True))

    async def _check_canary(self, begin: int) -> None:
        body = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
        answer = await self._json("POST", "/v1/completions", body)
        text = answer.get("choices", [{}])[0].get("text")
        self.canary = self.canary or text
        if not text or text != self.canary:
            self.found.append(f"{begin}..{begin + BATCH - 1}: the canary was answered {answer}")

    async def _json(self, method: str, path: str, body: object = None) -> Any:
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {KEY}\r\n"
        reply = await client.exchange(
            self.url, head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data
        )
        return json.loads(reply.body)


def held(server: Server) -> dict[str, float]:
    """What the server holds at the moment."""
    return {name: server.metric(name) for name in (*GAUGES, "parrot:event_loop_tasks", "process_open_fds")}


def left(server: Server, before: dict[str, float]) -> list[str]:
    """What the server still holds of what has ended, after giving it time."""
    deadline = time.monotonic() + SETTLED_S
    while True:
        more = [
            f"{name}: {now:g}, before {before[name]:g}"
            for name, now in held(server).items()
            if now > before[name] + (0 if name in GAUGES else MORE_TASKS)
        ]
        if not more or time.monotonic() > deadline:
            return more
        time.sleep(0.1)  # it can only be observed by asking again


def campaign(flags: tuple[str, ...], seed: int, first: int, count: int) -> Campaign:
    with serve(*COMMON, *flags) as server:
        fuzz = Campaign(server.url, seed)
        before = held(server)
        asyncio.run(fuzz.run(first, count))
        fuzz.found += left(server, before)
        if errors := [line.strip() for line in server.log if " ERROR " in line]:
            fuzz.found += errors
            fuzz.log = server.log
        return fuzz


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument(
        "--model-share", type=float, default=0.05, help="share of the cases on the bundled model"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one case, printed with its answer")
    args = parser.parse_args(argv)
    if args.only is not None:
        return _replay(args.seed, args.only)
    on_model = int(args.cases * args.model_share)
    parts = {"sim": (SIM, args.first, args.cases - on_model)}
    parts["model"] = (MODEL, args.first + args.cases - on_model, on_model)
    ok = [
        _part(name, flags, args.seed, first, count) for name, (flags, first, count) in parts.items() if count
    ]
    return 0 if all(ok) else 1


def _part(name: str, flags: tuple[str, ...], seed: int, first: int, count: int) -> bool:
    """One server's share of the cases; True when nothing was found."""
    begun = time.perf_counter()
    done = campaign(flags, seed, first, count)
    result = {"seed": seed, "found": done.found, "statuses": dict(done.statuses)}
    path = write_json(f"fuzz-{name}", {**result, "slow_s": done.slow, "log": done.log})
    for problem in done.found[:50]:
        print(f"  {problem}")
    seconds = time.perf_counter() - begun
    counts = " ".join(f"{status or 'closed'}:{number}" for status, number in sorted(done.statuses.items()))
    print(
        f"fuzz {name} cases {count} from {first} seed {seed} seconds {seconds:.0f} answers {counts} "
        f"slow {len(done.slow)} found {len(done.found)} {'FAILED' if done.found else 'ok'} {path}",
        flush=True,
    )
    return not done.found


def _replay(seed: int, number: int) -> int:
    with serve(*COMMON, *SIM) as server:
        fuzz = Campaign(server.url, seed)
        asyncio.run(fuzz.replay(number))
        print("".join(server.log))
    return 1 if fuzz.found else 0
