"""Places for tasks that wait: the queue in its order against what engines offer.

Source: Algorithm 1 of OSDI'24 "Parrot": each task, or its group as a whole, goes where `policy` finds the best
place. A task is held back only where several engines are up, none of them could start it now, and it would be the
last in the queue of each; at most `hold_tokens` of prompts for each engine, and never longer than MAX_HOLD_S.

Responsible for: who is placed next and who is held back, and when it is worth looking again. Pure. An event costs
O(log n + engines) for each task that it places, MAX_PLACED at most. Leaves to others: who waits and in what order
(AppScheduler), and which engine is best (`policy`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from server.scheduler.applications import Applications
from server.scheduler.cost import Engine, Fit
from server.scheduler.entry import Entry, Group
from server.scheduler.events import Action, Dispatch
from server.scheduler.groups import Groups
from server.scheduler.policy import Choice, PlacementPolicy
from server.scheduler.task_queue import TaskQueue

MAX_OFFERS = 6  # of engines to tasks that find no place, in one event
MAX_PLACED = 8  # in one event, about half a millisecond; a Resume goes on
MAX_HOLD_S = 1.0
LOOK_AGAIN_S = 0.1  # an engine's load alone lets the queue be looked at no more often


@dataclass(slots=True)
class Placer:
    """Takes from the queue, and places on engines; both are AppScheduler's. `look_again`: when an engine's load is
    next a reason to look at the queue; -infinity: at once, not all that could be placed were."""

    queue: TaskQueue
    engines: dict[int, Engine]
    apps: Applications
    groups: Groups
    policy: PlacementPolicy
    hold_tokens: int
    look_again: float = -math.inf

    def note_room(self, now: float) -> None:
        """Where something waited there is room."""
        self.look_again = now

    def place_ahead(self, app: str, home: int | None = None) -> int | None:
        """Where a prompt is best computed before it is complete: at `home`, which has the beginning of it, or else
        where the least runs, as prefill beside who decodes hides nothing; of equals, where its application was.
        None: no engine has nothing better to do."""
        idle = {id: engine for id, engine in self.engines.items() if not engine.num_waiting}
        if home in idle:
            return home
        last = self.apps.last_engine(app)
        return min(idle, key=lambda id: (len(idle[id].tasks), id != last, id), default=None)

    def hand_out(self, now: float) -> list[Action]:
        """Places for those who wait, in their order, so far as there are any for now."""
        actions: list[Action] = []
        passed, tried = 0, set[Group]()
        while self._may_go_on(passed, len(actions)) and (entry := self.queue.at(passed)) is not None:
            placed = self._place_next(entry, tried, now)
            passed += not placed
            actions += placed
        self.look_again = now + LOOK_AGAIN_S if len(actions) < MAX_PLACED else -math.inf
        return actions

    def _may_go_on(self, passed: int, placed: int) -> bool:
        engines = len(self.engines)
        return engines > 0 and passed <= MAX_OFFERS // engines and placed < MAX_PLACED

    def _place_next(self, entry: Entry, tried: set[Group], now: float) -> list[Action]:
        """`entry`, alone or with its group; nothing: it is held back. `tried`: groups without room as a whole."""
        if entry.group is not None and entry.group not in tried and len(self.engines) > 1:
            tried.add(entry.group)
            members = self.queue.members(entry.group)
            choice = self.policy.for_group(members)
            if choice.offer.fit is not Fit.NOT:
                return [self._place(member, choice, now) for member in members]
        choice = self.policy.for_task(entry)
        if choice.offer.queues and self._may_hold(entry, now):
            if not entry.story[-1].endswith("held back"):
                entry.tell(now, f"{choice.offer.reason()}: held back")
            return []
        return [self._place(entry, choice, now)]

    def _may_hold(self, entry: Entry, now: float) -> bool:
        """As long as every engine has work, whose end lets this be looked at again."""
        engines = self.engines.values()
        return (
            len(engines) > 1
            and self.queue.num_tokens <= self.hold_tokens * len(engines)
            and now - entry.since < MAX_HOLD_S
            and all(engine.tasks and engine.is_last(entry.key) for engine in engines)
        )

    def _place(self, entry: Entry, choice: Choice, now: float) -> Dispatch:
        self.queue.remove(entry)
        engine, objective, key = choice.offer.engine, entry.acts_as, entry.key
        fits = choice.offer.fit is not Fit.NOT
        engine.place(entry.spec, objective.urgency, self.policy.limit_ms(entry), key, fits=fits)
        entry.engine_id = self.apps[entry.spec.app].engine_id = engine.id
        self.groups.settle(entry.group, engine.id)
        entry.tell(now, f"placed on engine {engine.id}: {choice.why}, {choice.offer.reason()}")
        return Dispatch(entry.id, engine.id, key, objective)
