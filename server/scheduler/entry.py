"""A task that has not ended, and its place in the one order of all queues.

    key = (urgency, due, place of the application, topological order, id)

    due = arrival of the application + slack + PATIENCE, which ends when something of the application has run;
          0 where it must go on now (`critical_path`)

    slack = CALL_STRETCH * the time of the call + REST_STRETCH * the time of what its application does after it, of
            its first call; none for others that get ready before it has begun

so that those which arrived first go first, of those that arrived at about the same time the one with the least
left goes first (shortest remaining work), successors of what has begun come before what has not (app-FIFO), in the
order in which it did, and what is wanted within a time takes an earlier place in its class. Ageing is part of it:
slack is at most PATIENCE, so nothing is passed over by what arrived later than twice that.

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

CALL_STRETCH, REST_STRETCH = 2.0, 0.2
"""How many times its own work a call may be passed over, and how many times what its application does after it,
for which every later call competes anew. The more, the better the mean, and the longer long ones wait. With 2.0 for
both, simulated chains (lognormal, 8 slots, 90 % load) have 0.69 times app-FIFO's mean completion, 0.95 with 0.2;
but then chains of 12 calls beside single requests (B3) lose most of what keeping their place gains them. With 0.2
for both, short requests beside long ones (B8) would lose what passing those gains."""

HEAD_START_S = PATIENCE_S
"""How much older than its call an application counts as: one that goes on for hours does not go first for hours."""

Group = tuple[str, str]
"""A task group: its application, and its name there."""


@dataclass(slots=True)
class Entry:
    """`engine_id` None: it is queued. `since`: when it last began to wait for a place.

    `arrived`: when its application came, `due`: when something of it is wanted; in the time of the events.
    `wait_s`: between these, when nothing is wanted sooner. `place`: of its application.
    `aged`: it has waited so long that it is treated as urgent. `critical`: it goes first in its class.
    """

    spec: TaskSpec
    place: int
    objective: Objective
    group: Group | None
    arrived: float
    since: float
    due: float
    wait_s: float
    engine_id: int | None = None
    aged: bool = False
    critical: bool = False
    story: list[str] = field(default_factory=list)

    @property
    def id(self) -> int:
        return self.spec.task_id

    @property
    def key(self) -> Key:
        due_ms = 0 if self.aged or self.critical else math.ceil(self.due * 1000)
        place = 0 if self.critical else self.place
        return self.acts_as.urgency, due_ms, place, self.spec.order, self.spec.task_id

    @property
    def acts_as(self) -> Objective:
        return Objective(Urgency.LATENCY) if self.aged else self.objective

    @property
    def can_age(self) -> bool:
        return self.objective.urgency is Urgency.THROUGHPUT

    def tell(self, now: float, what: str) -> None:
        self.story.append(f"{now:.6f} {what}")


def own_steps(spec: TaskSpec) -> int:
    """The work of a task alone."""
    return footprint(spec) - spec.num_tokens + spec.num_tokens // PROMPT_TOKENS_PER_STEP


def slack(spec: TaskSpec, step_ms: float) -> float:
    """In seconds, by the work of the task and what its application has left after it; `step_ms`: of an engine."""
    own = own_steps(spec)
    left = own if spec.remaining_steps is None else spec.remaining_steps
    own = min(own, left)
    return min((CALL_STRETCH * own + REST_STRETCH * (left - own)) * step_ms / 1000, PATIENCE_S)


def due(objective: Objective, patient: float, now: float) -> float:
    """When something of a task is wanted that gets ready `now`; then it is wanted if nobody wants it sooner."""
    return patient if objective.within_ms is None else min(patient, now + objective.within_ms / 1000)
