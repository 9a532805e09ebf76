"""Whether new work is taken: the bounds of the queue, and of what one key may have in flight.

Responsible for: counting what was taken and has not ended, and refusing with 429 and `Retry-After` before any work
is done. Pure: times come in. What has been taken is never refused later: the tasks of a running program count,
and so delay others, but go on. An empty queue takes anything, so that nothing is refused for ever for its size.

    in flight  = |---- engines' sequences ----|---- queue: at most max_queued_requests ----|
    tokens       of prompts in flight that have no first token: at most max_queued_tokens
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace

from server.errors import TooManyRequests

MAX_RETRY_S = 60.0
SMOOTHING = 0.05
"""Of the mean time between two first tokens, which tells how fast the queue moves."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """`seats`: sequences that all engines together run at a time. `per_key` None: as many as the queue takes."""

    seats: int
    queued_requests: int
    queued_tokens: int
    per_key: int | None = None


class Admission:
    """Owns the counts. An application (`app`) is a session with its running tasks, or one request."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.in_flight = 0
        self.queued_tokens = 0
        self._apps: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._interval = 0.0
        self._last_start: float | None = None

    def open_seats(self, seats: int) -> None:
        """The engines have loaded and said how many sequences they run."""
        self.bounds = replace(self.bounds, seats=seats)

    @property
    def queued(self) -> int:
        """Requests in flight beyond what the engines run at a time."""
        return max(0, self.in_flight - self.bounds.seats)

    def concurrency(self, tenant: str) -> int:
        """Applications of this tenant that have something in flight."""
        return len(self._apps[tenant]) if tenant in self._apps else 0

    def check(
        self,
        tenant: str,
        app: str | None = None,
        *,
        requests: int = 1,
        tokens: int = 0,
        per_key: int | None = None,
        alongside: int = 0,
    ) -> None:
        """Raises TooManyRequests. `app`: work for an application that runs already is no further one of its key;
        `per_key`: this key's own bound, where it has one; `alongside`: its requests that are being answered,
        which may all have named one application."""
        limit = self.bounds.per_key if per_key is None else per_key
        if (
            limit is not None
            and max(self.concurrency(tenant), alongside) >= limit
            and app not in self._apps[tenant]
        ):
            raise TooManyRequests(
                f"This key has {limit} requests in flight, which is its limit (--max-concurrency-per-key).",
                code="too_many_concurrent_requests",
                retry_after=1,
            )
        bounds = self.bounds
        queued = self.in_flight + requests - bounds.seats
        if self.in_flight and queued > bounds.queued_requests:
            raise self._full(f"{self.queued} requests wait", "--max-queued-requests")
        if self.queued_tokens and self.queued_tokens + tokens > bounds.queued_tokens:
            raise self._full(f"{self.queued_tokens} prompt tokens wait", "--max-queued-tokens")

    def taken(self, tenant: str, app: str, tokens: int) -> None:
        self.in_flight += 1
        self.queued_tokens += tokens
        self._apps[tenant][app] += 1

    def started(self, tokens: int, now: float) -> None:
        """Its first token has come."""
        self.queued_tokens -= tokens
        if self._last_start is not None:
            self._interval += SMOOTHING * (now - self._last_start - self._interval)
        self._last_start = now

    def ended(self, tenant: str, app: str, unstarted_tokens: int) -> None:
        """`unstarted_tokens`: its prompt's, if it never had a first token."""
        self.in_flight -= 1
        self.queued_tokens -= unstarted_tokens
        apps = self._apps[tenant]
        apps[app] -= 1
        if not apps[app]:
            del apps[app]
            if not apps:
                del self._apps[tenant]

    def _full(self, what: str, flag: str) -> TooManyRequests:
        wait = min(max(1.0, self.queued * self._interval), MAX_RETRY_S)
        return TooManyRequests(f"The server is busy: {what} ({flag}).", code="queue_full", retry_after=wait)

    def check_invariants(self) -> None:
        assert self.in_flight == sum(apps.total() for apps in self._apps.values())
        assert self.queued_tokens >= 0
        assert all(apps and min(apps.values()) > 0 for apps in self._apps.values())
