"""Calls that are the same run once: while one of them runs, and afterwards from a bounded memory.

Two calls are the same when tenant, canonical ids and sampling are, and when their tokens are a function of these:
greedy, or with a seed that the client chose. The first one leads: it generates, and the others read what it has
got. When a leader goes away before its end (cancelled, failed), the next reader leads; what a reader has shown
already it does not show again, because it would be the same text.

Responsible for: finding and keeping flights. Generating is the leader's business. Failures are not kept.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b

import msgspec

from engine.types import Objective
from server.generation import GenerationParams, TextDelta, merged
from server.tenant import Tenant

MAX_ENDED = 1_000
MAX_ENDED_TOKENS = 1_000_000
"""Of the flights that have ended; the ones that were not used for longest are forgotten first."""


@dataclass(slots=True, eq=False)
class Flight:
    """One generation and all that it has given. `number` and `objective` are what the dispatcher knows it by."""

    number: int
    objective: Objective
    deltas: list[TextDelta] = field(default_factory=list)
    num_tokens: int = 0
    ended: bool = False
    abandoned: bool = False
    _waiters: list[asyncio.Future[None]] = field(default_factory=list)

    def add(self, delta: TextDelta) -> None:
        self.deltas.append(delta)
        self.num_tokens += len(delta.token_ids)
        self._wake()

    async def read(self) -> AsyncIterator[TextDelta]:
        """Everything from the beginning; ends early when the leader has gone (`abandoned`)."""
        position = 0
        while True:
            while position < len(self.deltas):
                position += 1
                yield self.deltas[position - 1]
            if self.ended or self.abandoned:
                return
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def close(self, *, ended: bool) -> None:
        self.ended, self.abandoned = ended, not ended
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class CallCache:
    """Owns the flights, running and ended."""

    def __init__(self) -> None:
        self._running: dict[bytes, Flight] = {}
        self._ended: OrderedDict[bytes, Flight] = OrderedDict()
        self._ended_tokens = 0
        self.hits = 0

    def find(self, key: bytes) -> Flight | None:
        flight = self._running.get(key)
        if flight is None and (flight := self._ended.get(key)) is not None:
            self._ended.move_to_end(key)
        self.hits += flight is not None
        return flight

    @contextmanager
    def lead(self, key: bytes, number: int, objective: Objective) -> Iterator[Flight]:
        """To be left without an exception once the last delta was added."""
        flight = self._running[key] = Flight(number, objective)
        try:
            yield flight
        except BaseException:
            del self._running[key]
            flight.close(ended=False)
            raise
        del self._running[key]
        flight.close(ended=True)
        self._keep(key, flight)

    def _keep(self, key: bytes, flight: Flight) -> None:
        """As one delta: a delta a token takes several times the memory. Who reads along has the flight itself."""
        deltas = [merged(flight.deltas)] if flight.deltas else []
        kept = Flight(flight.number, flight.objective, deltas, flight.num_tokens, ended=True)
        self._ended[key] = kept
        self._ended_tokens += kept.num_tokens
        while len(self._ended) > MAX_ENDED or self._ended_tokens > MAX_ENDED_TOKENS:
            self._ended_tokens -= self._ended.popitem(last=False)[1].num_tokens


def key_of(tenant: Tenant, token_ids: Sequence[int], params: GenerationParams) -> bytes | None:
    """None: it may come out differently each time."""
    sampling = params.sampling
    if sampling.temperature == 0:
        sampling = msgspec.structs.replace(sampling, seed=0)
    elif not params.seeded:
        return None
    text = (params.stop, params.include_stop, params.skip_special_tokens)
    digest = blake2b(
        msgspec.msgpack.encode((tenant.id, sampling, text)), key=tenant.salt[:64], digest_size=24
    )
    digest.update(array("i", token_ids).tobytes())
    return digest.digest()
