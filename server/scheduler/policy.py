"""Whom a place is looked for together, and which engine gets them.

Source: Algorithm 1 of OSDI'24 "Parrot", section 5.4:

    a task group                      the engine with room for all its members that wait or are known to come, where
                                      those that come later join them; without one, each on its own
    tasks that wait with its prefix   the engine with room for all of them
    else                              the engine with the best offer; a resident prefix is part of its cost

Responsible for: that choice, of the offers of `cost`. Changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.types import Urgency
from server.scheduler.applications import Applications
from server.scheduler.cost import Engine, Fit, Offer, Unit
from server.scheduler.entry import Entry
from server.scheduler.groups import Groups
from server.scheduler.residency import footprint
from server.scheduler.task_queue import TaskQueue


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine's offer, and for whom it was chosen."""

    offer: Offer
    why: str


@dataclass(frozen=True, slots=True)
class PlacementPolicy:
    """Reads what AppScheduler owns. `latency_limit_ms`: of latency-sensitive tasks that name no limit."""

    engines: Mapping[int, Engine]
    queue: TaskQueue
    apps: Applications
    groups: Groups
    disabled: frozenset[str]
    latency_limit_ms: float | None

    def limit_ms(self, entry: Entry) -> float:
        """For the steps that it takes part in; infinite: none. Inside of a group there is none."""
        objective = entry.acts_as
        limit = objective.step_limit_ms
        if limit is None and objective.urgency is Urgency.LATENCY and entry.group is None and not entry.aged:
            limit = self.latency_limit_ms
        return math.inf if limit is None or "step-limits" in self.disabled else limit

    def for_group(self, members: Sequence[Entry]) -> Choice:
        """Whoever waits of a group, in order."""
        offer = self._find_engine(members[0], self._whole(members))
        return Choice(offer, f"with {len(members) - 1} others of its group")

    def for_task(self, entry: Entry) -> Choice:
        """One that waits, by itself."""
        if len(self.engines) == 1:
            return Choice(self._find_engine(entry, self._unit([entry])), "the only one")
        if entry.group is not None:
            offer = self._find_engine(entry, self._unit([entry]))
            return Choice(offer, "apart, no room for its group as a whole")
        sharing = self.queue.sharers(entry.spec)
        if sharing.count:
            offer = self._find_engine(entry, self._unit([entry], sharing.count, sharing.tokens))
            if offer.fit is not Fit.NOT:
                return Choice(offer, f"with room for {sharing.count} queued that share its prefix")
        return Choice(self._find_engine(entry, self._unit([entry])), f"best of {len(self.engines)}")

    def _unit(self, members: Sequence[Entry], others: int = 0, other_tokens: int = 0) -> Unit:
        return Unit(
            [member.spec for member in members],
            min(member.acts_as.urgency for member in members),
            min(self.limit_ms(member) for member in members),
            others,
            other_tokens,
        )

    def _whole(self, members: Sequence[Entry]) -> Unit:
        """A group: who waits of it and, as long as it has no engine, with room for those known to come."""
        spec, group = members[0].spec, members[0].group
        if group is None or self.groups.home(group) is not None:
            return self._unit(members)
        missing = max(0, max(member.spec.group_size for member in members) - self.groups.num_seen(group))
        leading = spec.prefix_tokens[0] if spec.prefix_tokens else 0
        return self._unit(members, missing, missing * (footprint(spec) - leading))

    def _find_engine(self, entry: Entry, unit: Unit) -> Offer:
        """FindEngine: the engine of its group while there is room, else the best offer of all."""
        home_id = self.groups.home(entry.group)
        home = None if home_id is None else self.engines.get(home_id)
        if home is not None:
            offer = home.offer(unit)
            if offer.fit is not Fit.NOT:
                return offer
        last = None if "affinity" in self.disabled else self.apps[entry.spec.app].engine_id
        offers = (engine.offer(unit) for engine in self.engines.values())
        return min(offers, key=lambda offer: offer.rank(last))
