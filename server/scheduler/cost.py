"""FindEngine: what it costs to place a task, or several as one unit, on an engine.

Source: OSDI'24 "Parrot", section 5.4, which leaves FindEngine open; the rule is that of scheduling.md, section 2.

    fits    resident tokens + the unit's <= what the strictest of residents and unit leaves of the KV capacity
    cost    capacity that this takes away from others + tokens to compute + queueing delay
    delay   tokens ahead, in its class or above + tokens to compute, once for each request that waits there

All in tokens. The delay is the unit's own and what it does to others: where a queue has formed, a prefix that is
computed there once more makes everybody wait, so that the fuller engines are, the more a resident prefix counts.
Of equal costs, the engine that has more of the prefix, then the application's last one, then the one with the least
room (best fit: large room is kept for large units).

Responsible for: an engine's load as the scheduler knows it from its own placements, and offers for a unit. Pure.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from engine.types import Key, Urgency
from server.scheduler.calibration import Calibration
from server.scheduler.events import EngineUp, TaskSpec
from server.scheduler.residency import Residency, footprint


@dataclass(slots=True)
class Placement:
    """A task on an engine. `fresh`: tokens that it has to compute, `added`: KV tokens that it alone takes.

    `limit_ms`: for a step with it; infinite: none.
    """

    spec: TaskSpec
    urgency: Urgency
    limit_ms: float
    key: Key
    fresh: int
    added: int


class Engine:
    """Owned by AppScheduler. `num_waiting`: requests without room there, as it said or as is to be expected."""

    def __init__(self, up: EngineUp) -> None:
        self.id = up.engine_id
        self.tasks: dict[int, Placement] = {}
        self.residency = Residency(up.capacity)
        self.num_waiting = 0
        self._fresh = [0] * len(Urgency)
        self._added = [0] * len(Urgency)
        self._limits: list[float] = []
        self._keys: list[Key] = []
        self.set_up(up)

    def set_up(self, up: EngineUp) -> None:
        self.residency.resize(up.capacity)
        self.max_num_seqs: float = math.inf if up.max_num_seqs is None else up.max_num_seqs
        self._calibration: Calibration | None = up.calibration

    @property
    def capacity(self) -> int:
        return self.residency.capacity

    @property
    def limit_ms(self) -> float:
        """The strictest of those placed here."""
        return self._limits[0] if self._limits else math.inf

    def report(self, num_waiting: int) -> bool:
        """What it says of itself; whether nothing waits there any more."""
        emptied = self.num_waiting > 0 and not num_waiting
        self.num_waiting = num_waiting
        return emptied

    def place(self, spec: TaskSpec, urgency: Urgency, limit_ms: float, key: Key, *, fits: bool) -> None:
        fresh = footprint(spec) - self._known(spec)
        before = self.residency.held
        self.residency.hold(spec)
        added = self.residency.held - before
        self._insert(Placement(spec, urgency, limit_ms, key, fresh, added))
        self.num_waiting += not fits

    def remove(self, task_id: int) -> None:
        self.residency.release(self._take(task_id).spec)

    def change(self, task_id: int, urgency: Urgency, limit_ms: float, key: Key) -> None:
        """Another objective or key; where it is stays the same."""
        old = self._take(task_id)
        self._insert(Placement(old.spec, urgency, limit_ms, key, old.fresh, old.added))

    def ahead(self, urgency: Urgency) -> int:
        """Tokens to compute of the tasks that are as urgent, or more."""
        return sum(self._fresh[: urgency + 1])

    def in_order(self) -> list[int]:
        """Its tasks, by their keys, which end with the task's id."""
        return [key[-1] for key in self._keys]

    def is_last(self, key: Key) -> bool:
        """Whether nothing placed here comes after it."""
        return not self._keys or self._keys[-1] < key

    def room(self, limit_ms: float, num_more: int) -> int:
        """Tokens that may be resident with so many tasks more for steps to keep the limit."""
        if self._calibration is None or limit_ms == math.inf:
            return self.capacity
        running = int(min(len(self.tasks) + num_more, self.max_num_seqs))
        tokens = self._calibration.capacity(limit_ms, running)
        return self.capacity if tokens is None else min(self.capacity, tokens)

    def offer(self, unit: Unit) -> Offer:
        limit_ms = min(self.limit_ms, unit.limit_ms)
        room = self.room(limit_ms, unit.num_tasks)
        total = self.residency.held + unit.tokens_beside(self.residency.is_held)
        tasks = len(self.tasks) + unit.num_tasks
        fit = Fit.NOT
        if total <= room and tasks <= self.max_num_seqs:
            fit = Fit.BESIDE
        elif total - sum(self._added[unit.urgency + 1 :]) <= room and tasks <= self.max_num_seqs:
            fit = Fit.BEFORE
        return Offer(
            engine=self,
            fit=fit,
            breaks=limit_ms != math.inf and total > room,
            lost=max(0, self.room(self.limit_ms, 0) - room),
            fresh=unit.tokens_beside(self.residency.is_known) - self._computed_ahead(unit.specs[0]),
            ahead=self.ahead(unit.urgency),
            known=self._known(unit.specs[0]),
            left=room - total,
        )

    def _known(self, spec: TaskSpec) -> int:
        """Tokens of its prompt that are there, or will be when those before it have been computed."""
        return self.residency.known(spec) + self._computed_ahead(spec)

    def _computed_ahead(self, spec: TaskSpec) -> int:
        """Tokens that were computed here for it alone, beyond what is known of its prefixes."""
        engine_id, num_tokens = spec.ahead or (self.id, 0)
        return max(0, num_tokens - self.residency.known(spec)) if engine_id == self.id else 0

    def _insert(self, placement: Placement) -> None:
        self.tasks[placement.spec.task_id] = placement
        self._fresh[placement.urgency] += placement.fresh
        self._added[placement.urgency] += placement.added
        insort(self._keys, placement.key)
        if placement.limit_ms != math.inf:
            insort(self._limits, placement.limit_ms)

    def _take(self, task_id: int) -> Placement:
        placement = self.tasks.pop(task_id)
        self._fresh[placement.urgency] -= placement.fresh
        self._added[placement.urgency] -= placement.added
        del self._keys[bisect_left(self._keys, placement.key)]
        if placement.limit_ms != math.inf:
            del self._limits[bisect_left(self._limits, placement.limit_ms)]
        return placement

    def check_invariants(self) -> None:
        placements = list(self.tasks.values())
        self.residency.check_invariants(placement.spec for placement in placements)
        assert self._keys == sorted(placement.key for placement in placements)
        assert self._limits == sorted(p.limit_ms for p in placements if p.limit_ms != math.inf)
        for urgency in Urgency:
            of_class = [placement for placement in placements if placement.urgency is urgency]
            assert self._fresh[urgency] == sum(placement.fresh for placement in of_class)
            assert self._added[urgency] == sum(placement.added for placement in of_class)


class Fit(IntEnum):
    """How a unit finds room: beside all that is there, when the less urgent pause, or not."""

    BESIDE = 0
    BEFORE = 1
    NOT = 2


@dataclass(frozen=True, slots=True)
class Unit:
    """What is placed at once. `others` are tasks with `other_tokens` that room is found for, but not placed yet."""

    specs: Sequence[TaskSpec]
    urgency: Urgency
    limit_ms: float
    others: int = 0
    other_tokens: int = 0

    @property
    def num_tasks(self) -> int:
        return len(self.specs) + self.others

    def tokens_beside(self, is_there: Callable[[bytes], bool]) -> int:
        """Beyond the prefixes that are there, and counting once what the unit shares within."""
        seen: set[bytes] = set()
        total = self.other_tokens
        for spec in self.specs:
            total += footprint(spec)
            for index in range(len(spec.prefix_hashes) - 1, -1, -1):
                hash = spec.prefix_hashes[index]
                if hash in seen or is_there(hash):
                    total -= spec.prefix_tokens[index]
                    break
            if len(self.specs) > 1:
                seen.update(spec.prefix_hashes)
        return total


@dataclass(frozen=True, slots=True)
class Offer:
    """`breaks`: a limit per step would not be kept. `known`: prefix tokens there, `left`: room after it."""

    engine: Engine
    fit: Fit
    breaks: bool
    lost: int
    fresh: int
    ahead: int
    known: int
    left: int

    @property
    def delay(self) -> int:
        return self.ahead + self.fresh * self.engine.num_waiting

    @property
    def cost(self) -> int:
        return self.lost + self.fresh + self.delay

    @property
    def queues(self) -> bool:
        """Whether the unit would not start there now: no room, and others wait for it or a limit forbids."""
        return self.fit is Fit.NOT and (self.breaks or self.engine.num_waiting > 0)

    def rank(self, last: int | None) -> tuple[int, bool, bool, int, int, bool, int, int]:
        """The smallest is best. `last`: where the application's last task went."""
        elsewhere = self.engine.id != last
        return (
            self.fit,
            self.breaks,
            self.queues,
            self.cost,
            -self.known,
            elsewhere,
            self.left,
            self.engine.id,
        )

    def reason(self) -> str:
        fits = {Fit.BESIDE: "fits", Fit.BEFORE: "fits when less urgent work pauses", Fit.NOT: "does not fit"}
        return (
            f"{fits[self.fit]}, cost {self.cost} ({self.lost} capacity lost, {self.fresh} to compute, "
            f"{self.delay} delay), shares {self.known} tokens"
        )
