"""What a task is urgent for: criteria, and the deduction of objectives from them.

Source: OSDI'24 "Parrot", section 5.2, with the decisions of scheduling.md. Going from a variable that
somebody wants soon to what it is made from: its producer is latency-sensitive; of the producers of a task's
inputs, one that is alone in its stage is latency-sensitive too, and two or more of one stage are a task
group, which is scheduled as one unit and has no limit per token inside. A task that is reached in several
ways takes the strictest.

Responsible for: that rule, incrementally and without recursion. `CallGraph` says where it starts.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.types import Objective, Urgency
from parrot import wire
from server.errors import BadRequest

if TYPE_CHECKING:
    from server.graph.call import Task

LATENCY = Objective(Urgency.LATENCY)
THROUGHPUT = Objective(Urgency.THROUGHPUT)
_LIMITS = ("ttft_ms", "tpot_ms", "deadline_ms")


@dataclass(frozen=True, slots=True)
class Demand:
    """An objective, the group it comes with, and who asked: a task or a variable by its id.

    `group_size`: how many members the group had when it was asked for; a hint, more may come.
    """

    objective: Objective
    group: str | None = None
    via: str | None = None
    group_size: int = field(default=1, compare=False)

    def strictness(self) -> tuple[int, float, float]:
        """Smaller is stricter."""
        wanted = self.objective
        return wanted.urgency, _or_infinite(wanted.step_limit_ms), _or_infinite(wanted.within_ms)

    def joined(self, other: Demand) -> Demand:
        """The strictest of both. Who asked before may change its mind: one task becomes a group."""
        if other.via == self.via and other.objective.urgency <= self.objective.urgency:
            return other
        first, second = (self, other) if self.strictness() <= other.strictness() else (other, self)
        objective = strictest(first.objective, second.objective)
        tied = first.objective == second.objective
        grouped = second if tied and first.group is None else first
        return Demand(objective, grouped.group, first.via, grouped.group_size)


DEFAULT = Demand(THROUGHPUT)
"""Of a task that nobody has asked for."""


def strictest(first: Objective, second: Objective) -> Objective:
    return Objective(
        min(first.urgency, second.urgency),
        _smallest(first.step_limit_ms, second.step_limit_ms),
        _smallest(first.within_ms, second.within_ms),
    )


def parse(criteria: wire.Criteria | None, *, param: str = "criteria") -> Objective:
    """None means latency. Raises BadRequest that names `param`.

    A limit makes latency-sensitive. The time per token caps a batch; of the other two, the one that ends first
    gives an earlier place.
    """
    if criteria is None or criteria == "latency":
        return LATENCY
    if criteria == "throughput":
        return THROUGHPUT
    limits = _parse_limits(criteria, param) if isinstance(criteria, str) else criteria
    given = [limits.ttft_ms, limits.tpot_ms, limits.deadline_ms]
    if all(limit is None for limit in given):
        raise BadRequest(f"A criterion needs one of {', '.join(_LIMITS)}.", param=param)
    if not all(limit is None or 0 < limit < math.inf for limit in given):
        raise BadRequest("Limits are positive numbers of milliseconds.", param=param)
    return Objective(Urgency.LATENCY, limits.tpot_ms, _smallest(limits.ttft_ms, limits.deadline_ms))


def describe(objective: Objective) -> str:
    limits = {"tpot_ms": objective.step_limit_ms, "within_ms": objective.within_ms}
    given = [f"{name}:{limit:g}" for name, limit in limits.items() if limit is not None]
    return ",".join(given) or objective.urgency.name.lower()


def deduce(demands: Iterable[tuple[Task, Demand]], again: Iterable[Task] = ()) -> list[Task]:
    """Passes demands on to everything that the tasks depend on; the tasks whose demand has changed.

    `again` have got new producers. Descending topological order, so that a task is complete before what it
    depends on is looked at: O(n log n) in the tasks that change.
    """
    pending = _Pending()
    for task, demand in demands:
        pending.offer(task, demand)
    for task in again:
        pending.offer(task, task.demand)
    repeated = set(again)
    changed: list[Task] = []
    while (popped := pending.pop()) is not None:
        task, demand = popped
        if demand == task.demand and task not in repeated:
            continue
        if demand != task.demand:
            task.demand = demand
            changed.append(task)
        for producer, inherited in _inherited(task):
            pending.offer(producer, inherited)
    return changed


class _Pending:
    """Tasks to look at, the last in topological order first. Owns what has been asked of them so far."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Task]] = []
        self._demands: dict[Task, Demand] = {}

    def offer(self, task: Task, demand: Demand) -> None:
        if task not in self._demands:
            heapq.heappush(self._heap, (-task.order, len(self._demands), task))
            self._demands[task] = task.demand
        self._demands[task] = self._demands[task].joined(demand)

    def pop(self) -> tuple[Task, Demand] | None:
        if not self._heap:
            return None
        task = heapq.heappop(self._heap)[2]
        return task, self._demands[task]


def _inherited(task: Task) -> Iterable[tuple[Task, Demand]]:
    """What a task asks of those it waits for."""
    if task.objective.urgency is not Urgency.LATENCY:
        return
    alone = Demand(task.objective, via=task.id)
    if task.previous is not None and not task.previous.ended:
        yield task.previous, alone
    stages: dict[int, list[Task]] = {}
    for variable in task.reads:
        producer = variable.producer
        if producer is not None and not producer.ended:
            stages.setdefault(producer.order, []).append(producer)
    for order, producers in stages.items():
        demand = alone
        if len(producers) > 1:
            inside = Objective(task.objective.urgency, within_ms=task.objective.within_ms)
            demand = Demand(inside, f"{task.id}@{order}", task.id, len(producers))
        for producer in producers:
            yield producer, demand


def _parse_limits(text: str, param: str) -> wire.Limits:
    """`ttft_ms:200,tpot_ms:40`"""
    limits: dict[str, float] = {}
    for item in text[:200].split(","):
        name, _, number = item.strip().partition(":")
        if name not in _LIMITS or name in limits:
            raise BadRequest(
                f"{text[:40]!r} is no criterion: latency, throughput, limits as in ttft_ms:200,tpot_ms:40.",
                param=param,
            )
        try:
            limits[name] = float(number)
        except ValueError:
            raise BadRequest(
                f"{name} is a number of milliseconds, not {number[:20]!r}.", param=param
            ) from None
    return wire.Limits(**limits)


def _smallest(first: float | None, second: float | None) -> float | None:
    return min((limit for limit in (first, second) if limit is not None), default=None)


def _or_infinite(limit: float | None) -> float:
    return math.inf if limit is None else limit
