"""Runs the same applications in several modes, interleaved, and compares their completion times.

Every mode has a server of its own, all of them up at once and only one of them loaded at a time. A run's texts
have to be the same in every mode. Times are seconds from the start of a run to the end of each application.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import aiohttp

from bench.apps import App, Outputs, check_same
from bench.modes import Mode
from bench.network import Network
from bench.serving import serve


@dataclass(slots=True)
class Times:
    """`by_run[i]` holds the completion times of run i's applications."""

    by_run: list[list[float]] = field(default_factory=list)

    @property
    def means(self) -> list[float]:
        return [sum(run) / len(run) for run in self.by_run]

    @property
    def last(self) -> list[float]:
        return [max(run) for run in self.by_run]


@dataclass(frozen=True, slots=True)
class Run:
    """Applications that start together, and the network that each exchange of theirs pays."""

    apps: Sequence[App]
    round_trip_s: float = 0.0
    seed: int = 0


class Comparison:
    """Servers of several modes. `with Comparison(modes, flags) as comparison: comparison.run(...)`"""

    def __init__(self, modes: Sequence[Mode], flags: Sequence[str]) -> None:
        self._modes = modes
        self._flags = flags
        self._stack = ExitStack()
        self._urls: dict[str, str] = {}

    def __enter__(self) -> Comparison:
        for mode in self._modes:
            self._urls[mode.name] = self._stack.enter_context(serve(*self._flags, *mode.flags)).url
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, runs: Sequence[Run]) -> dict[str, Times]:
        """The order of the modes turns from run to run. Raises RuntimeError when texts differ."""
        times = {mode.name: Times() for mode in self._modes}
        for index, run in enumerate(runs):
            texts: list[list[Outputs]] = []
            shift = index % len(self._modes)
            for mode in (*self._modes[shift:], *self._modes[:shift]):
                seconds, outputs = asyncio.run(_together(mode, self._urls[mode.name], run))
                times[mode.name].by_run.append(seconds)
                texts.append(outputs)
            for other in texts[1:]:
                check_same(texts[0], other)
        return times


async def _together(mode: Mode, url: str, run: Run) -> tuple[list[float], list[Outputs]]:
    network = Network(run.round_trip_s, run.seed)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout(total=None)
    ) as session:
        start = time.perf_counter()

        async def one(app: App) -> tuple[float, Outputs]:
            outputs = await mode.run(session, url, app, network)
            return time.perf_counter() - start, outputs

        results = await asyncio.gather(*(one(app) for app in run.apps))
    return [seconds for seconds, _ in results], [outputs for _, outputs in results]
