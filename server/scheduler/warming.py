"""What became of requests that only fill the cache.

    asked --> running --> computed (begin, end) --> used, or not: the task that it was for has run, or never will
                |             ^
                +-> called off, or given up by the engine: what it had until then

Responsible for: their figures, and where the beginning of a prompt was computed. A token counts as used when the
task that it was computed for found it in the cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.types import TokenDelta
from server.metrics import Metrics


@dataclass(slots=True)
class _Request:
    """`computed`: (first, end) of the tokens that it added to the cache, once that is known. `wanted`: it was not
    called off."""

    engine_id: int
    num_tokens: int
    wanted: bool = True
    computed: tuple[int, int] | None = None


class Warming:
    """Owns the requests, from asked to used."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._running: dict[int, _Request] = {}
        self._done: dict[int, _Request] = {}

    @property
    def num_open(self) -> int:
        return len(self._running) + len(self._done)

    def asked(self, id: int, engine_id: int, num_tokens: int) -> None:
        self._running[id] = _Request(engine_id, num_tokens)

    def where(self, id: int) -> int | None:
        """The engine that still works on it, as far as is known here."""
        request = self._running.get(id)
        return request.engine_id if request is not None and request.wanted else None

    def called_off(self, id: int) -> None:
        """The engine tells how far it came."""
        self._running[id].wanted = False

    def ahead(self, ids: Iterable[int]) -> tuple[int, int] | None:
        """The engine that has, or is about to have, the most tokens of those that were asked for, and how many."""
        requests = (self._running.get(id) or self._done.get(id) for id in ids)
        there = [(_end(request), request.engine_id) for request in requests if request is not None]
        if not there:
            return None
        num_tokens, engine_id = max(there)
        return engine_id, num_tokens

    def report(self, deltas: Iterable[TokenDelta]) -> None:
        """Of a step."""
        if not self._running:
            return
        for delta in deltas:
            if delta.finish_reason is not None and (request := self._running.pop(delta.id, None)) is not None:
                self._ended(request, delta)

    def used(self, ids: Iterable[int], cached_tokens: int) -> int:
        """How many of their tokens lie within the first `cached_tokens`."""
        count = 0
        for id in ids:
            self._running.pop(id, None)
            request = self._done.pop(id, None)
            if request is not None and request.computed is not None:
                first, end = request.computed
                count += max(0, min(end, cached_tokens) - first)
        return count

    def engine_down(self, engine_id: int) -> None:
        for requests in (self._running, self._done):
            for id in [id for id, request in requests.items() if request.engine_id == engine_id]:
                del requests[id]

    def _ended(self, request: _Request, delta: TokenDelta) -> None:
        if delta.finish_reason != "stop" and request.wanted:
            self._metrics.eager_dropped += 1
        request.computed = (delta.cached_tokens, delta.computed_tokens)
        self._metrics.eager_tokens += delta.computed_tokens - delta.cached_tokens
        self._done[delta.id] = request


def _end(request: _Request) -> int:
    return request.num_tokens if request.computed is None else request.computed[1]
