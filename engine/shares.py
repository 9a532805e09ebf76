"""How much each tenant has been served, so that who has had least goes next.

A virtual counter for each tenant that has anything here, of what was computed for it: a prompt token counts 1, a
generated one DECODE_COST. A tenant that comes back does not bring what it did not use: it starts at the least of
those that are here. Of two tenants that always have something waiting, neither gets more than the other by more
than what a few requests cost. Source: OSDI'24 "Fairness in Serving Large Language Models" (VTC), section 4.

Responsible for: these counters. A tenant is known by the salt that its own blocks lie under. Pure. Leaves to
others: what waits (WaitingQueue), what runs (BatchScheduler), the order within a tenant.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping

from engine.sequence import Sequence

DECODE_COST = 2
"""As in the source; a decoded token takes a pass over weights and cache that prompt tokens share."""

MAX_IDLE = 1000


class Shares:
    """Owns the counters. `off`: all are one tenant."""

    def __init__(self, *, off: bool = False) -> None:
        self._off = off
        self._served: dict[bytes, int] = {}
        self._idle: OrderedDict[bytes, int] = OrderedDict()
        self._present: Counter[bytes] = Counter()

    @property
    def contended(self) -> bool:
        """Whether it matters who is served."""
        return len(self._present) > 1

    def name(self, tenant: bytes) -> bytes:
        return b"" if self._off else tenant

    def served(self, tenant: bytes) -> int:
        return self._served.get(tenant, 0)

    def enter(self, tenant: bytes) -> None:
        """One more request of it."""
        tenant = self.name(tenant)
        if tenant not in self._present:
            least = min(self._served.values(), default=0)
            self._served[tenant] = max(self._idle.pop(tenant, 0), least)
        self._present[tenant] += 1

    def leave(self, tenant: bytes) -> None:
        tenant = self.name(tenant)
        self._present[tenant] -= 1
        if self._present[tenant]:
            return
        del self._present[tenant]
        self._idle[tenant] = self._served.pop(tenant)
        if not self._present:
            self._idle.clear()  # all of them start anew
        elif len(self._idle) > MAX_IDLE:
            self._idle.popitem(last=False)

    def charge(self, tenant: bytes, num_tokens: int, *, decoded: bool) -> None:
        self._served[self.name(tenant)] += num_tokens * (DECODE_COST if decoded else 1)

    def charge_step(self, chosen: Mapping[Sequence, int]) -> None:
        """So many tokens of each are in a step that is about to run. While one tenant is here nobody counts."""
        if self.contended:
            for sequence, length in chosen.items():
                self.charge(sequence.tenant, length, decoded=not sequence.prefilling)

    def check_invariants(self, tenants: list[bytes]) -> None:
        """`tenants`: of each request that has not ended."""
        assert self._present == Counter(map(self.name, tenants))
        assert self._served.keys() == self._present.keys()
        assert not self._idle.keys() & self._present.keys()
