"""A task that has not ended, and its place in the one order of all queues.

    key = (urgency, due, arrival of the application, topological order, id)

    due = arrival of the application + PATIENCE + slack      slack = STRETCH * the time its remaining work takes,
                                                             and none once a task of it has been placed

so that those which arrived first go first, successors of what runs come before applications that arrived later
(app-FIFO), of those that arrived at about the same time the one with the least left goes first (shortest remaining
work), and what is wanted within a time takes an earlier place in its class. Ageing is part of it: slack is at most
PATIENCE, so nothing is passed over by what arrived later than that.

Responsible for: the key, and what objective a task is treated as having. Leaves to AppScheduler: every change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from engine.types import Key, Objective, Urgency
from server.scheduler.events import TaskSpec
from server.scheduler.residency import footprint

PATIENCE_S = 60.0
"""How long a patient task waits before it is treated as urgent, and the deadline of whoever names none."""

PROMPT_TOKENS_PER_STEP = 32
"""Of a prompt, about as long to compute as one more token is to decode."""

STRETCH = 2.0
"""How many times its remaining work an application may be passed over. From simulated chains (lognormal calls, 8
slots) against app-FIFO, means and p99 of completion: 0.72 and 1.34 times at 90 % load; infinite: 0.70 and 1.43."""

HEAD_START_S = PATIENCE_S
"""How much older than its call an application counts as: one that goes on for hours does not go first for hours."""

Group = tuple[str, str]
"""A task group: its application, and its name there."""


@dataclass(slots=True)
class Entry:
    """`engine_id` None: it is queued. `since`: when it last began to wait for a place.

    `arrived`: when its application came, `due`: when something of it is wanted; in the time of the events.
    `slack_s`: see above.
    `aged`: it has waited so long that it is treated as urgent.
    """

    spec: TaskSpec
    arrival: int
    objective: Objective
    group: Group | None
    arrived: float
    since: float
    due: float
    slack_s: float = 0.0
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


def slack(spec: TaskSpec, step_ms: float) -> float:
    """In seconds, by the work that its application has left; `step_ms`: of an engine."""
    steps = spec.remaining_steps
    if steps is None:
        steps = footprint(spec) - spec.num_tokens + spec.num_tokens // PROMPT_TOKENS_PER_STEP
    return min(STRETCH * steps * step_ms / 1000, PATIENCE_S)


def due(objective: Objective, arrived: float, now: float, slack_s: float = 0.0) -> float:
    """When something of a task is wanted that gets ready `now` in an application that arrived then."""
    patient = arrived + PATIENCE_S + slack_s
    return patient if objective.within_ms is None else min(patient, now + objective.within_ms / 1000)
