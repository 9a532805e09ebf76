"""Which patient tasks have waited long enough to be treated as urgent ones.

One for each engine at a time, the longest waiting first: so patient work goes on under any load of urgent work, and
a large batch that waits together does not become urgent together. A task that has started begins to wait anew, as
it may be paused. Source: ageing in multilevel feedback queues.

Responsible for: since when they wait, and who is promoted. Leaves what that means to AppScheduler.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Ageing:
    """Owns the waiting tasks, the longest waiting first, and the promoted ones that have not ended."""

    patience_s: float
    promoted: set[int] = field(default_factory=set)
    _since: OrderedDict[int, float] = field(default_factory=OrderedDict)

    def watch(self, task_id: int, now: float) -> None:
        """It waits from now on. Nothing to one that is promoted."""
        if task_id not in self.promoted:
            self._since[task_id] = now
            self._since.move_to_end(task_id)

    def is_watched(self, task_id: int) -> bool:
        return task_id in self._since or task_id in self.promoted

    def forget(self, task_id: int) -> None:
        self._since.pop(task_id, None)
        self.promoted.discard(task_id)

    def promote(self, now: float, limit: int) -> Iterator[int]:
        """Until so many are promoted."""
        while self._since and len(self.promoted) < limit:
            task_id, since = next(iter(self._since.items()))
            if now - since < self.patience_s:
                return
            del self._since[task_id]
            self.promoted.add(task_id)
            yield task_id

    def check_invariants(self, patient: set[int]) -> None:
        """`patient`: the tasks that may age."""
        assert self._since.keys() | self.promoted == patient
        assert not self._since.keys() & self.promoted
        assert list(self._since.values()) == sorted(self._since.values())
