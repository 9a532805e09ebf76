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
from dataclasses import dataclass
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
    """An objective, the group it comes with, and who asked: a task or a variable by its id."""

    objective: Objective
    group: str | None = None
    via: str | None = None

    def strictness(self) -> tuple[int, float]:
        """Smaller is stricter."""
        return self.objective.urgency, _or_infinite(self.objective.step_limit_ms)

    def joined(self, other: Demand) -> Demand:
        """The strictest of both. Who asked before may change its mind: one task becomes a group."""
        if other.via == self.via and other.objective.urgency <= self.objective.urgency:
            return other
        first, second = (self, other) if self.strictness() <= other.strictness() else (other, self)
        objective = strictest(first.objective, second.objective)
        tied = first.objective == second.objective
        return Demand(objective, first.group or (second.group if tied else None), first.via)


DEFAULT = Demand(THROUGHPUT)
"""Of a task that nobody has asked for."""


def strictest(first: Objective, second: Objective) -> Objective:
    limit = min(_or_infinite(first.step_limit_ms), _or_infinite(second.step_limit_ms))
    return Objective(min(first.urgency, second.urgency), None if limit == math.inf else limit)


def parse(criteria: wire.Criteria | None, *, param: str = "criteria") -> Objective:
    """None means latency. Raises BadRequest that names `param`.

    A limit makes latency-sensitive; of the limits, the time per token is the one that caps a batch.
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
    return Objective(Urgency.LATENCY, limits.tpot_ms)


def describe(objective: Objective) -> str:
    if objective.step_limit_ms is not None:
        return f"tpot_ms:{objective.step_limit_ms:g}"
    return objective.urgency.name.lower()


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
            demand = Demand(Objective(task.objective.urgency), f"{task.id}@{order}", via=task.id)
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


def _or_infinite(limit: float | None) -> float:
    return math.inf if limit is None else limit
