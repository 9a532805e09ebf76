"""All sessions, by their unguessable ids.

Responsible for: that a session is found by its owner alone (anybody else is told that there is none), that
one which is gone is told from one that never was, how many there may be, and when one has not been used for
too long. Leaves what ends with a session to the service, which applies SessionClosed to what `remove` and
`expired` hand back.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from server.errors import Gone, NotFound, TooManyRequests
from server.session.limits import Limits
from server.session.session import Session

MAX_REMEMBERED = 10_000  # ids of sessions that are gone


class SessionStore:
    """Owns the sessions, and the ids of the last ones that were removed."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._sessions: dict[str, Session] = {}
        self._gone: OrderedDict[str, str] = OrderedDict()
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._sessions)

    def has_room(self, tenant: str) -> bool:
        return self._counts[tenant] < self.limits.sessions

    def check_room(self, tenant: str) -> None:
        """Raises TooManyRequests when the tenant may not have another session."""
        if not self.has_room(tenant):
            raise TooManyRequests(
                f"There may be at most {self.limits.sessions} sessions at a time; delete one.",
                param="session_id",
                code="too_many_sessions",
            )

    def add(self, session: Session) -> None:
        """Raises TooManyRequests."""
        assert session.id not in self._sessions
        self.check_room(session.tenant)
        self._sessions[session.id] = session
        self._counts[session.tenant] += 1

    def get(self, tenant: str, id: str, now: float) -> Session:
        """Counts as use. Raises NotFound, or Gone for the owner of one that was removed."""
        session = self._sessions.get(id)
        if session is None or session.tenant != tenant:
            if self._gone.get(id) == tenant:
                raise Gone(f"The session {id[:140]!r} was deleted or has expired.", param="session_id")
            raise NotFound(f"There is no session {id[:140]!r}.", param="session_id", code="session_not_found")
        session.touch(now)
        return session

    def owned_by(self, tenant: str) -> list[Session]:
        return [session for session in self._sessions.values() if session.tenant == tenant]

    def remove(self, tenant: str, id: str, now: float) -> Session:
        """Raises as `get` does."""
        session = self.get(tenant, id, now)
        self._forget(session)
        return session

    def expired(self, now: float) -> list[Session]:
        """Removes the sessions that have not been used for their ttl, and in which nothing runs."""
        found = [s for s in self._sessions.values() if s.expires_at <= now and not s.is_running]
        for session in found:
            self._forget(session)
        return found

    def next_expiry(self, now: float) -> float | None:
        """When `expired` is worth asking again; one that is late because it runs is looked at after its ttl."""
        times = [s.expires_at if s.expires_at > now else now + s.ttl for s in self._sessions.values()]
        return min(times, default=None)

    def all(self) -> list[Session]:
        return [*self._sessions.values()]

    def check_invariants(self) -> None:
        assert Counter(s.tenant for s in self._sessions.values()) == +self._counts
        assert all(id == session.id for id, session in self._sessions.items())
        assert not self._gone.keys() & self._sessions.keys()
        assert len(self._gone) <= MAX_REMEMBERED

    def _forget(self, session: Session) -> None:
        del self._sessions[session.id]
        self._counts[session.tenant] -= 1
        if not self._counts[session.tenant]:
            del self._counts[session.tenant]
        self._gone[session.id] = session.tenant
        if len(self._gone) > MAX_REMEMBERED:
            self._gone.popitem(last=False)
