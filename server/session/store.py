"""All sessions, by their unguessable ids.

Responsible for: that a session is found by its owner alone (anybody else is told that there is none), that
one which is gone is told from one that never was, how many there may be, and when one has not been used for
too long. Leaves what ends with a session to the service, which applies SessionClosed to what `remove`,
`expired` and `make_room` hand back.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from server.errors import Gone, NotFound, TooManyRequests
from server.session.events import Ending
from server.session.limits import Limits
from server.session.session import Session

MAX_REMEMBERED = 10_000  # ids of sessions that are gone
SOON_S = 1.0
"""When to try again where sessions could make room that still run."""


@dataclass(frozen=True, slots=True)
class _Gone:
    tenant: str
    ending: Ending


def _nobody(session: Session) -> bool:
    return False


class SessionStore:
    """Owns the sessions, and the ids of the last ones that were removed.

    `in_use`: whether somebody waits on a session or reads it, so that it has to stay.
    """

    def __init__(self, limits: Limits | None = None, in_use: Callable[[Session], bool] = _nobody) -> None:
        self.limits = limits or Limits()
        self._in_use = in_use
        self._sessions: dict[str, Session] = {}
        self._gone: OrderedDict[str, _Gone] = OrderedDict()
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._sessions)

    def has_room(self, tenant: str) -> bool:
        return self._counts[tenant] < self.limits.sessions

    def make_room(self, tenant: str, now: float) -> Session | None:
        """Removes the oldest evictable session that is idle, where the tenant may not have another one.

        Raises TooManyRequests, with the time after which there may be room, when there is no such session.
        """
        if self.has_room(tenant):
            return None
        for session in self.owned_by(tenant):
            if session.evictable and self._idle(session):
                self._forget(session, "made room for another one")
                return session
        raise self._full(tenant, now)

    def add(self, session: Session) -> None:
        """Raises TooManyRequests; `make_room` goes before it."""
        assert session.id not in self._sessions
        if not self.has_room(session.tenant):
            raise self._full(session.tenant, session.created_at)
        self._sessions[session.id] = session
        self._counts[session.tenant] += 1

    def get(self, tenant: str, id: str, now: float) -> Session:
        """Counts as use. Raises NotFound, or Gone for the owner of one that was removed."""
        session = self._sessions.get(id)
        if session is None or session.tenant != tenant:
            gone = self._gone.get(id)
            if gone is not None and gone.tenant == tenant:
                raise Gone(f"The session {id} {gone.ending}.", param="session_id")
            raise NotFound(f"There is no session {id[:140]!r}.", param="session_id", code="session_not_found")
        session.touch(now)
        return session

    def owned_by(self, tenant: str) -> list[Session]:
        return [session for session in self._sessions.values() if session.tenant == tenant]

    def remove(self, tenant: str, id: str, now: float) -> Session:
        """Raises as `get` does."""
        session = self.get(tenant, id, now)
        self._forget(session, "was deleted")
        return session

    def expired(self, now: float) -> list[Session]:
        """Removes the sessions that have not been used for their ttl, and are idle."""
        found = [s for s in self._sessions.values() if s.expires_at <= now and self._idle(s)]
        for session in found:
            self._forget(session, "has expired")
        return found

    def next_expiry(self, now: float) -> float | None:
        """When `expired` is worth asking again; one that is late because it is not idle: after its ttl."""
        times = [s.expires_at if s.expires_at > now else now + s.ttl for s in self._sessions.values()]
        return min(times, default=None)

    def all(self) -> list[Session]:
        return [*self._sessions.values()]

    def check_invariants(self) -> None:
        assert Counter(s.tenant for s in self._sessions.values()) == +self._counts
        assert all(id == session.id for id, session in self._sessions.items())
        assert not self._gone.keys() & self._sessions.keys()
        assert len(self._gone) <= MAX_REMEMBERED

    def _full(self, tenant: str, now: float) -> TooManyRequests:
        waits = (SOON_S if s.evictable else s.expires_at - now for s in self.owned_by(tenant))
        return TooManyRequests(
            f"There may be at most {self.limits.sessions} sessions at a time; delete one.",
            param="session_id",
            code="too_many_sessions",
            retry_after=max(SOON_S, min(waits, default=SOON_S)),
        )

    def _idle(self, session: Session) -> bool:
        """Nothing runs in it, and nobody waits on it."""
        return not session.is_running and not self._in_use(session)

    def _forget(self, session: Session, ending: Ending) -> None:
        del self._sessions[session.id]
        self._counts[session.tenant] -= 1
        if not self._counts[session.tenant]:
            del self._counts[session.tenant]
        self._gone[session.id] = _Gone(session.tenant, ending)
        if len(self._gone) > MAX_REMEMBERED:
            self._gone.popitem(last=False)
