"""Task groups that have members, and the engine where each is at home.

Responsible for: where a group's members have been placed last, so that those that come later join them. Leaves
deduction to `graph.objective`, and whether there is room to FindEngine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from server.scheduler.entry import Group


@dataclass(slots=True)
class Membership:
    """`seen` members so far, `live` of which have not ended. `engine_id`: where the last one was placed."""

    seen: int = 0
    live: int = 0
    engine_id: int | None = None


@dataclass(slots=True)
class Groups:
    """Owns the groups that have a live member. To all of it, None is no group."""

    _groups: dict[Group, Membership] = field(default_factory=dict)

    def enter(self, group: Group | None) -> None:
        if group is not None:
            membership = self._groups.setdefault(group, Membership())
            membership.seen += 1
            membership.live += 1

    def leave(self, group: Group | None) -> None:
        if group is not None:
            membership = self._groups[group]
            membership.live -= 1
            if not membership.live:
                del self._groups[group]

    def settle(self, group: Group | None, engine_id: int) -> None:
        if group is not None:
            self._groups[group].engine_id = engine_id

    def home(self, group: Group | None) -> int | None:
        return None if group is None else self._groups[group].engine_id

    def num_seen(self, group: Group) -> int:
        return self._groups[group].seen

    def check_invariants(self, groups: Iterable[Group | None]) -> None:
        """`groups`: of each task that has not ended."""
        counts = Counter(group for group in groups if group is not None)
        assert counts == {group: membership.live for group, membership in self._groups.items()}
        assert all(membership.seen >= membership.live for membership in self._groups.values())
