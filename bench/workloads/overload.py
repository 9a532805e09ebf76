"""Several times as many requests as the server can take: those that are taken do as well as without the others.

A closed loop that just fills seats and queue measures the peak; then requests come by a Poisson process at a
multiple of that rate, whatever becomes of those before. Of those that are taken, the rate has to be near the peak
and the time as bounded as in the closed loop; all others have to be told 429, with `Retry-After`, at once.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from collections import Counter
from dataclasses import asdict, dataclass

import aiohttp

from bench.arrivals import poisson
from bench.serving import serve
from bench.stats import percentile, write_json

LEAST_SHARE = 0.9
"""Of the peak, that has to be left."""

MOST_TIMES = 1.5
"""As long as in the closed loop, at the 99th percentile."""

REFUSED_MS = 50.0
WARM_SHARE = 0.2
"""Of a phase, that does not count: it fills the queue."""

PROMPT_TOKENS, OUTPUT_TOKENS = 64, 32


@dataclass(frozen=True, slots=True)
class Outcome:
    """`begun`: seconds from the phase's start, when it was due; `seconds`: from then to the last byte."""

    status: int
    begun: float
    seconds: float
    lag: float  # of the client, which is not the server's
    retry_after: int | None

    @property
    def ended(self) -> float:
        return self.begun + self.seconds


@dataclass(slots=True)
class Phase:
    """What became of the requests of one phase of `length_s`."""

    length_s: float
    outcomes: list[Outcome]

    def taken(self) -> list[Outcome]:
        return [each for each in self.outcomes if each.status == 200 and self._counts(each.ended)]

    def refused(self) -> list[Outcome]:
        return [each for each in self.outcomes if each.status == 429 and self._counts(each.ended)]

    @property
    def rate(self) -> float:
        """Requests completed a second."""
        return len(self.taken()) / (self.length_s * (1 - WARM_SHARE))

    def _counts(self, when: float) -> bool:
        return WARM_SHARE * self.length_s <= when <= self.length_s


class Load:
    """Sends to one server. Every prompt is new; every other answer is streamed."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url + "/v1/completions"
        self._number = 0
        self._began = 0.0
        self.outcomes: list[Outcome] = []

    async def closed(self, clients: int, seconds: float) -> Phase:
        async def client() -> None:
            while (now := time.perf_counter() - self._began) < seconds:
                await self._request(now)

        self._begin()
        await asyncio.gather(*(client() for _ in range(clients)))
        return Phase(seconds, self.outcomes)

    async def open(self, rate: float, seconds: float, seed: int) -> Phase:
        self._begin()
        async with asyncio.TaskGroup() as requests:
            for due in poisson(rate, int(rate * seconds), seed):
                await asyncio.sleep(self._began + due - time.perf_counter())
                requests.create_task(self._request(due))
        return Phase(seconds, self.outcomes)

    def _begin(self) -> None:
        self.outcomes, self._began = [], time.perf_counter()

    async def _request(self, due: float) -> None:
        self._number += 1
        sent = time.perf_counter() - self._began
        async with self._session.post(self._url, json=_body(self._number)) as answer:
            await answer.read()
            seconds = time.perf_counter() - self._began - due
            wait = answer.headers.get("Retry-After")
            self.outcomes.append(
                Outcome(answer.status, due, seconds, sent - due, None if wait is None else int(wait))
            )


def _body(number: int) -> dict[str, object]:
    prompt = [400 + (number * 7919 + at * (number + 1)) % 2000 for at in range(PROMPT_TOKENS)]
    return {"prompt": prompt, "max_tokens": OUTPUT_TOKENS, "ignore_eos": True, "stream": bool(number % 2)}


async def _run(url: str, args: argparse.Namespace) -> tuple[Phase, Phase]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        load = Load(session, url)
        peak = await load.closed(args.seats + args.queue, args.seconds)
        gc.collect()  # of the client, and not in the middle of what follows
        over = await load.open(args.factor * peak.rate, args.seconds, args.seed)
        return peak, over


def complaints(peak: Phase, over: Phase) -> list[str]:
    """Which bars were missed, by how much."""
    found = []
    if over.rate < LEAST_SHARE * peak.rate:
        found.append(f"rate {over.rate / peak.rate:.2f} of the peak, below {LEAST_SHARE}")
    slow, bound = _ms(over.taken(), 0.99), MOST_TIMES * _ms(peak.taken(), 0.99)
    if slow > bound:
        found.append(f"p99 of the taken {slow:.0f} ms, above {bound:.0f}")
    refused = over.refused()
    if not refused or _ms(refused, 0.99) > REFUSED_MS:
        found.append(f"p99 of {len(refused)} refusals above {REFUSED_MS:.0f} ms, or there are none")
    if any(each.retry_after is None or each.retry_after < 1 for each in refused):
        found.append("a refusal without Retry-After")
    if others := {each.status for each in over.outcomes} - {200, 429}:
        found.append(f"answered {sorted(others)}")
    return found


def _ms(outcomes: list[Outcome], share: float) -> float:
    return 1e3 * percentile([each.seconds - each.lag for each in outcomes], share) if outcomes else 0.0


def _describe(name: str, outcomes: list[Outcome]) -> None:
    times = " ".join(f"{label} {_ms(outcomes, share):.1f}" for label, share in _SHARES.items())
    print(f"    {name:8} {len(outcomes):6} {times} ms")


_SHARES = {"p50": 0.5, "p99": 0.99, "max": 1.0}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each of the two phases")
    parser.add_argument("--factor", type=float, default=4.0, help="of the peak, that is offered")
    parser.add_argument("--seats", type=int, default=16, help="sequences that run at a time")
    parser.add_argument("--queue", type=int, default=16, help="requests that may wait")
    parser.add_argument("--step-ms", type=float, default=5.0, help="of the simulated engine")
    parser.add_argument(
        "--model", action="store_true", help="the bundled model in place of the simulated engine"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    kind = () if args.model else ("--engine", "sim", "--sim-step-ms", str(args.step_ms))
    bounds = ("--max-num-seqs", str(args.seats), "--max-queued-requests", str(args.queue))
    with serve(*kind, *bounds) as server:
        peak, over = asyncio.run(_run(server.url, args))
        cpu = server.cpu_seconds()
    found = complaints(peak, over)
    _describe("peak", peak.taken())
    _describe("taken", over.taken())
    _describe("refused", over.refused())
    lag = 1e3 * percentile([each.lag for each in over.outcomes], 0.99)
    statuses = Counter(each.status for each in over.outcomes)
    phases = {
        name: [asdict(each) for each in phase.outcomes] for name, phase in (("peak", peak), ("over", over))
    }
    path = write_json("overload", {"args": vars(args), "found": found, "server_cpu_s": cpu, **phases})
    counts = " ".join(f"{status}:{count}" for status, count in sorted(statuses.items()))
    print(
        f"overload {'model' if args.model else 'sim'} x{args.factor:g} peak {peak.rate:.1f}/s "
        f"taken {over.rate:.1f}/s ({over.rate / peak.rate:.2f}) refused p99 {_ms(over.refused(), 0.99):.1f} ms "
        f"answers {counts} client_lag_p99 {lag:.1f} ms {'; '.join(found) or 'ok'} {path}"
    )
    return 1 if found else 0
