"""The emulated network between a client and the server: charged to every exchange, in the client.

Lognormal round-trip times (the paper's sample: median 238 ms, p90 257 ms), seeded; half before the request is
sent and half after its answer has come. A scale of 0 is no network.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

P90_OVER_MEDIAN = 257 / 238
Z90 = 1.2815515655446004


class Network:
    """`exchanges` counts them, `seconds` sums what was charged."""

    def __init__(self, median_s: float, seed: int) -> None:
        self._median_s = median_s
        self._random = random.Random(seed)
        self.exchanges = 0
        self.seconds = 0.0

    @asynccontextmanager
    async def exchange(self) -> AsyncIterator[None]:
        """Wrap one request and the reading of its answer."""
        round_trip = self._draw()
        self.exchanges += 1
        self.seconds += round_trip
        await asyncio.sleep(round_trip / 2)
        yield
        await asyncio.sleep(round_trip / 2)

    def _draw(self) -> float:
        sigma = math.log(P90_OVER_MEDIAN) / Z90
        return self._median_s * self._random.lognormvariate(0.0, sigma)
