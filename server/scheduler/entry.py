"""A task that has not ended, and its place in the one order of all queues.

    key = (urgency, due, arrival of the application, topological order, id)

An application is due PATIENCE after it arrived, so that those which arrived first go first, successors of what runs
come before applications that arrived later (app-FIFO), and what is wanted within a time takes an earlier place in
its class: by as much as that time is shorter than PATIENCE, which also bounds how long it can be passed over.

Responsible for: the key, and what objective a task is treated as having. Leaves to AppScheduler: every change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from engine.types import Key, Objective, Urgency
from server.scheduler.events import TaskSpec

PATIENCE_S = 60.0
"""How long a patient task waits before it is treated as urgent, and the deadline of whoever names none."""

Group = tuple[str, str]
"""A task group: its application, and its name there."""


@dataclass(slots=True)
class Entry:
    """`engine_id` None: it is queued. `since`: when it last began to wait for a place.

    `arrived`: when its application came, `due`: when something of it is wanted; in the time of the events.
    `aged`: it has waited so long that it is treated as urgent.
    """

    spec: TaskSpec
    arrival: int
    objective: Objective
    group: Group | None
    arrived: float
    since: float
    due: float
    engine_id: int | None = None
    aged: bool = False
    story: list[str] = field(default_factory=list)

    @property
    def id(self) -> int:
        return self.spec.task_id

    @property
    def key(self) -> Key:
        due_ms = 0 if self.aged else math.ceil(self.due * 1000)
        return self.acts_as.urgency, due_ms, self.arrival, self.spec.order, self.spec.task_id

    @property
    def acts_as(self) -> Objective:
        return Objective(Urgency.LATENCY) if self.aged else self.objective

    @property
    def can_age(self) -> bool:
        return self.objective.urgency is Urgency.THROUGHPUT

    def tell(self, now: float, what: str) -> None:
        self.story.append(f"{now:.6f} {what}")


def due(objective: Objective, arrived: float, now: float) -> float:
    """When something of a task is wanted that gets ready `now` in an application that arrived then."""
    patient = arrived + PATIENCE_S
    return patient if objective.within_ms is None else min(patient, now + objective.within_ms / 1000)
