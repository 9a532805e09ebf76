"""Runs the same applications in several modes, interleaved, and compares their completion times.

Every mode has a server of its own, all of them up at once and only one of them loaded at a time. A run's texts have
to be the same in every mode. Times are seconds from an application's arrival to its end.

No two runs of a comparison may have the same texts: a server remembers, and would answer the second from memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp
from tokenizers import Tokenizer

from bench.apps import App, Done, Outputs, check_lengths, check_same
from bench.apps import run as run_app
from bench.modes import Mode
from bench.network import Network
from bench.serving import Server, serve

COUNTERS = (
    "prefix_cache_queries",
    "prefix_cache_hits",
    "kv_blocks_evicted",
    "num_preemptions",
    "engine_steps",
    "generation_tokens",
    "eager_prefill_tokens",
    "eager_prefill_tokens_used",
)
"""What a run adds to these counters of the server is kept with its times."""


Answered = list[tuple[Done, float]]
"""How each application of a run ended, and the seconds that it took."""


class Client(Protocol):
    """Runs one application in its mode's way."""

    async def __call__(self, app: App, network: Network, *, programs: bool) -> Done: ...


@dataclass(slots=True)
class Times:
    """`by_run[i]` holds the completion times of run i's applications, `token_ms[i]` the times per token of those
    that were streamed (None of the others), `counters[i]` what the server counted."""

    by_run: list[list[float]] = field(default_factory=list)
    token_ms: list[list[float | None]] = field(default_factory=list)
    counters: list[dict[str, float]] = field(default_factory=list)

    @property
    def means(self) -> list[float]:
        return [sum(run) / len(run) for run in self.by_run]

    @property
    def last(self) -> list[float]:
        return [max(run) for run in self.by_run]

    def add(self, answered: Answered, counters: dict[str, float]) -> None:
        self.by_run.append([seconds for _, seconds in answered])
        self.token_ms.append([done.token_ms for done, _ in answered])
        self.counters.append(counters)

    def select(self, wanted: Sequence[int]) -> Times:
        """Of each run the applications with these numbers; without a run's counters, which are of all."""
        return Times(
            [[run[index] for index in wanted] for run in self.by_run],
            [[run[index] for index in wanted] for run in self.token_ms],
        )

    def dropped(self, runs: int) -> Times:
        """Without the first runs, which warmed."""
        return Times(self.by_run[runs:], self.token_ms[runs:], self.counters[runs:])

    def counted(self, name: str) -> list[float]:
        return [run[name] for run in self.counters]

    def raw(self) -> dict[str, object]:
        return {"seconds": self.by_run, "token_ms": self.token_ms, "counters": self.counters}


@dataclass(frozen=True, slots=True)
class Run:
    """Applications that come together, or at `arrivals_s`, and the network that each exchange of theirs pays."""

    apps: Sequence[App]
    round_trip_s: float = 0.0
    seed: int = 0
    arrivals_s: Sequence[float] = ()

    def __post_init__(self) -> None:
        assert not self.arrivals_s or len(self.arrivals_s) == len(self.apps)


class Comparison:
    """Servers of several modes. `with Comparison(modes, flags) as comparison: comparison.run(...)`"""

    def __init__(
        self, modes: Sequence[Mode], flags: Sequence[str], tokenizer: Tokenizer | None = None
    ) -> None:
        """With a tokenizer, every output is asserted to be exactly the tokens that were asked for."""
        self._modes = modes
        self._flags = flags
        self._tokenizer = tokenizer
        self._stack = ExitStack()
        self._servers: dict[str, Server] = {}

    def __enter__(self) -> Comparison:
        try:
            for mode in self._modes:
                self._servers[mode.name] = self._stack.enter_context(serve(*self._flags, *mode.flags))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, runs: Sequence[Run]) -> dict[str, Times]:
        """The order of the modes turns from run to run. Raises RuntimeError when texts differ."""
        times = {mode.name: Times() for mode in self._modes}
        for index, run in enumerate(runs):
            texts: list[list[Outputs]] = []
            for mode in self._turned(index):
                answered, counters = self._checked(mode, run)
                times[mode.name].add(answered, counters)
                texts.append([done.outputs for done, _ in answered])
            for other in texts[1:]:
                check_same(texts[0], other)
        return times

    def only(self, mode: Mode, run: Run) -> Times:
        """One run in one mode, where modes are measured at different loads; its texts are compared with nothing."""
        times = Times()
        times.add(*self._checked(mode, run))
        return times

    def _turned(self, index: int) -> Iterator[Mode]:
        shift = index % len(self._modes)
        yield from (*self._modes[shift:], *self._modes[:shift])

    def _checked(self, mode: Mode, run: Run) -> tuple[Answered, dict[str, float]]:
        answered, counters = self._one(mode, run)
        if self._tokenizer is not None:
            for app, (done, _) in zip(run.apps, answered, strict=True):
                check_lengths(self._tokenizer, app, done.outputs)
        return answered, counters

    def _one(self, mode: Mode, run: Run) -> tuple[Answered, dict[str, float]]:
        server = self._servers[mode.name]
        before = server.metrics(COUNTERS)
        answered = asyncio.run(_over_http(server.url, mode, run))
        after = server.metrics(COUNTERS)
        return answered, {name: after[name] - before[name] for name in COUNTERS}


async def _over_http(url: str, mode: Mode, run: Run) -> Answered:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def client(app: App, network: Network, *, programs: bool) -> Done:
            return await run_app(session, url, app, network, programs=programs)

        return await together(client, mode, run)


async def together(client: Client, mode: Mode, run: Run) -> Answered:
    """Every application at its arrival; how it ended, and the seconds from arrival to end, on the loop's clock."""
    network = Network(run.round_trip_s, run.seed)
    loop = asyncio.get_running_loop()
    start = loop.time()

    async def one(app: App, at_s: float) -> tuple[Done, float]:
        if at_s:
            await asyncio.sleep(start + at_s - loop.time())
        done = await client(app, network, programs=mode.programs)
        return done, loop.time() - start - at_s

    return await asyncio.gather(*map(one, run.apps, run.arrivals_s or [0.0] * len(run.apps)))
