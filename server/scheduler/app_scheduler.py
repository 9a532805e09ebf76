"""Which engine gets which task, and in what order: the decisions above the engines.

Source: Algorithm 1 of OSDI'24 "Parrot": in the order of the keys (`entry`), each task with its group goes where
`policy` finds the best place.

    TaskReady --> queued --(placed at once, or held back)--> placed --> TaskFinished | TaskCancelled
                    ^------ orphaned <---- EngineDown --------|

Engines keep queues of their own in the same order, so nothing is gained by keeping a task here but its choice of an
engine (`placer`).

Responsible for: placements, keys and ageing. Pure: the same events give the same actions; an event costs
O(log n + engines) for each task that it places, MAX_PLACED at most; of the tasks of an engine that went down,
MAX_ADOPTED are queued again with each event. Leaves carrying it out to the dispatcher, and
what runs in a step to each engine.
"""

from __future__ import annotations

import math
from itertools import islice

import msgspec

from server.scheduler.ageing import Ageing
from server.scheduler.applications import App, Applications
from server.scheduler.cost import Engine
from server.scheduler.critical_path import CriticalPath
from server.scheduler.entry import HEAD_START_S, PATIENCE_S, Entry, Group, due, slack
from server.scheduler.events import (
    Abort,
    Action,
    EngineDown,
    EngineLoad,
    EngineUp,
    Event,
    ObjectiveChanged,
    Reprioritise,
    TaskCancelled,
    TaskFinished,
    TaskReady,
    TaskSpec,
    TaskStarted,
)
from server.scheduler.groups import Groups
from server.scheduler.placer import Placer
from server.scheduler.policy import PlacementPolicy
from server.scheduler.stories import Stories
from server.scheduler.task_queue import TaskQueue

MAX_ADOPTED = 16  # orphaned tasks that get into the queue again, in one event
TYPICAL_STEP_MS = 10.0  # of an engine that was not calibrated yet


class AppScheduler:
    """Owns the queue, the placements, and what it knows of engines, applications and groups.

    `disabled`: of config.SCHEDULING; other names mean nothing here, but without prefix caches there is no affinity.
    `hold_tokens`: see above; 0 holds nothing back. `latency_limit_ms`: a limit per step that latency-sensitive
    tasks outside of groups are placed with when they name none.
    """

    def __init__(
        self,
        *,
        disabled: frozenset[str] = frozenset(),
        hold_tokens: int = 0,
        latency_limit_ms: float | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        if "prefix-cache" in disabled:
            disabled |= {"affinity"}
        self._disabled = disabled
        self._entries: dict[int, Entry] = {}
        self._queue = TaskQueue()
        self._orphans: dict[int, int] = {}  # and the engine that went down
        self._engines: dict[int, Engine] = {}
        self._apps = Applications()
        self._groups = Groups()
        self._policy = PlacementPolicy(
            self._engines, self._queue, self._apps, self._groups, disabled, latency_limit_ms
        )
        hold_tokens = 0 if "hold-back" in disabled else hold_tokens
        self._placer = Placer(self._queue, self._engines, self._apps, self._groups, self._policy, hold_tokens)
        self._ageing = Ageing(math.inf if "ageing" in disabled else patience_s)
        self._critical_path = CriticalPath()
        self._stories = Stories(self._entries)
        self._num_ready = 0
        self._step_ms = TYPICAL_STEP_MS

    @property
    def num_queued(self) -> int:
        return len(self._queue) + len(self._orphans)

    @property
    def has_more(self) -> bool:
        """Whether a Resume should come as soon as others have had their turn."""
        return bool(self._orphans or (self._queue and self._engines and self._placer.look_again == -math.inf))

    def handle(self, event: Event, now: float) -> list[Action]:
        """What follows from `event`, in the order to carry it out. `now` never goes back."""
        actions = self._take(event, now)
        actions += self._age(now)
        if isinstance(event, TaskReady) and "critical-path" not in self._disabled:
            actions += self._hurry(now)
        self._adopt()
        if self._queue and (now >= self._placer.look_again or not isinstance(event, EngineLoad)):
            actions += self._placer.hand_out(now)
        return actions

    def story(self, task_id: int) -> tuple[str, ...]:
        """What happened to a task and why; of the tasks that have ended, the last thousand are remembered."""
        return self._stories.of(task_id)

    def why(self, task_id: int) -> str | None:
        """Why a task is where it was placed last; None: nowhere, or long ago."""
        return self._stories.why(task_id)

    def place_ahead(self, app: str, home: int | None = None) -> int | None:
        """See `Placer.place_ahead`."""
        return self._placer.place_ahead(app, home)

    def _take(self, event: Event, now: float) -> list[Action]:
        match event:
            case TaskReady():
                self._ready(event.spec, now)
            case TaskStarted():
                self._started(event.task_id, now)
            case TaskFinished():
                self._end(event.task_id, now, "finished")
            case TaskCancelled():
                return self._cancelled(event.task_id, now)
            case ObjectiveChanged():
                return self._objective_changed(event, now)
            case EngineUp():
                self._engine_up(event)
            case EngineDown():
                self._engine_down(event.engine_id, now)
            case EngineLoad():
                self._note_load(event, now)
        return []

    def _ready(self, spec: TaskSpec, now: float) -> None:
        assert spec.task_id not in self._entries, "a task is ready once"
        if "affinity" in self._disabled:
            spec = msgspec.structs.replace(spec, prefix_hashes=(), prefix_tokens=(), ahead=None)
        app = self._apps.enter(spec.app, now)
        self._num_ready += 1
        head_start_s = 0.0 if app.has_begun else HEAD_START_S
        place, arrived = app.place, max(app.arrived, now - spec.age_s - head_start_s)
        if "app-fifo" in self._disabled:
            place, arrived = self._num_ready, now
        wait_s = self._wait_s(spec, app)
        entry = Entry(
            spec,
            place,
            spec.objective,
            self._group(spec, spec.group),
            arrived=arrived,
            since=now,
            due=due(spec.objective, arrived + wait_s, now),
            wait_s=wait_s,
            critical=self._critical_path.is_critical(spec.app),
        )
        entry.tell(
            now, f"ready: app {spec.app}, {spec.num_tokens} tokens, urgency {spec.objective.urgency.name}"
        )
        self._entries[entry.id] = entry
        self._critical_path.ready(spec, now)
        self._groups.enter(entry.group)
        self._queue.add(entry)
        if entry.can_age:
            self._ageing.watch(entry.id, now)

    def _wait_s(self, spec: TaskSpec, app: App) -> float:
        """Who has begun keeps its place, before all who have not: it would be passed over anew at each call. Of
        what has not, only the first call lets shorter ones pass: an application is not torn apart by them."""
        if "srpt" in self._disabled:
            return PATIENCE_S
        if app.slack_s is None:
            app.slack_s = slack(spec, self._step_ms)
            return PATIENCE_S + app.slack_s
        return app.slack_s if app.has_begun else PATIENCE_S

    def _started(self, task_id: int, now: float) -> None:
        if self._ageing.is_watched(task_id):
            self._ageing.watch(task_id, now)
        entry = self._entries.get(task_id)
        if entry is not None and not self._disabled & {"srpt", "app-fifo"}:
            self._apps.begin(entry.spec.app)

    def _cancelled(self, task_id: int, now: float) -> list[Action]:
        entry = self._entries.get(task_id)
        if entry is None:
            return []
        self._end(task_id, now, "cancelled")
        return [] if entry.engine_id is None else [Abort(task_id, entry.engine_id)]

    def _objective_changed(self, event: ObjectiveChanged, now: float) -> list[Action]:
        entry, wanted = self._entries.get(event.task_id), event.objective
        if entry is None:
            return []
        group = self._group(entry.spec, event.group)
        if (entry.objective, entry.group) == (wanted, group):
            return []
        self._unqueue(entry)
        self._groups.enter(group)
        self._groups.leave(entry.group)
        if wanted.within_ms != entry.objective.within_ms:
            entry.due = due(wanted, entry.arrived + entry.wait_s, now)
        entry.objective, entry.group = wanted, group
        entry.tell(now, f"objective: {wanted.urgency.name}, step limit {wanted.step_limit_ms}")
        if not entry.can_age:
            entry.aged = False
            self._ageing.forget(entry.id)
        elif not self._ageing.is_watched(entry.id):
            self._ageing.watch(entry.id, now)
        return self._rekeyed(entry)

    def _engine_up(self, event: EngineUp) -> None:
        engine = self._engines.get(event.engine_id)
        if engine is None:
            self._engines[event.engine_id] = Engine(event)
        else:
            engine.set_up(event)
        if event.calibration is not None:
            self._step_ms = event.calibration.step_ms(1)

    def _engine_down(self, engine_id: int, now: float) -> None:
        engine = self._engines.pop(engine_id, None)
        if engine is None:
            return
        for task_id in engine.in_order():
            entry = self._entries[task_id]
            entry.engine_id, entry.since = None, now
            self._orphans[task_id] = engine_id

    def _adopt(self) -> None:
        for task_id in list(islice(self._orphans, MAX_ADOPTED)):
            engine_id, entry = self._orphans.pop(task_id), self._entries[task_id]
            entry.tell(entry.since, f"engine {engine_id} went down")
            self._queue.add(entry)

    def _note_load(self, event: EngineLoad, now: float) -> None:
        engine = self._engines.get(event.engine_id)
        if engine is not None and engine.report(event.num_waiting):
            self._placer.note_room(now)

    def _age(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for task_id in self._ageing.promote(now, len(self._engines)):
            actions += self._promote(task_id, now, "has waited long: treated as urgent", aged=True)
        return actions

    def _hurry(self, now: float) -> list[Action]:
        actions: list[Action] = []
        slots = sum(engine.max_num_seqs for engine in self._engines.values())
        if len(self._entries) < slots:
            return actions
        for task_id in self._critical_path.find(slots, self._step_ms, now):
            actions += self._promote(
                task_id, now, "its application is critical: first in its class", critical=True
            )
        return actions

    def _promote(
        self, task_id: int, now: float, why: str, *, aged: bool = False, critical: bool = False
    ) -> list[Action]:
        entry = self._entries[task_id]
        self._unqueue(entry)
        entry.aged, entry.critical = entry.aged or aged, entry.critical or critical
        entry.tell(now, why)
        return self._rekeyed(entry)

    def _unqueue(self, entry: Entry) -> None:
        """Before its key or group changes."""
        if entry.engine_id is None and entry.id not in self._orphans:
            self._queue.remove(entry)

    def _rekeyed(self, entry: Entry) -> list[Action]:
        """After that."""
        if entry.id in self._orphans:
            return []
        if entry.engine_id is None:
            self._queue.add(entry)
            return []
        objective = entry.acts_as
        self._engines[entry.engine_id].change(
            entry.id, objective.urgency, self._policy.limit_ms(entry), entry.key
        )
        return [Reprioritise(entry.id, entry.engine_id, entry.key, objective)]

    def _end(self, task_id: int, now: float, how: str) -> None:
        entry = self._entries.pop(task_id, None)
        if entry is None:
            return
        self._unqueue(entry)
        self._orphans.pop(task_id, None)
        if entry.engine_id is not None:
            self._engines[entry.engine_id].remove(task_id)
        self._apps.leave(entry.spec.app)
        self._critical_path.ended(entry.spec, now)
        self._groups.leave(entry.group)
        self._ageing.forget(task_id)
        entry.tell(now, how)
        self._stories.end(entry)

    def _group(self, spec: TaskSpec, name: str | None) -> Group | None:
        return None if name is None or "task-groups" in self._disabled else (spec.app, name)

    def check_invariants(self) -> None:
        entries = self._entries.values()
        waiting = [entry for entry in entries if entry.engine_id is None]
        queued = [entry for entry in waiting if entry.id not in self._orphans]
        assert len(waiting) - len(queued) == len(self._orphans)
        self._queue.check_invariants(queued)
        self._apps.check_invariants(entry.spec.app for entry in entries)
        self._critical_path.check_invariants({entry.id: entry.spec.app for entry in entries})
        self._groups.check_invariants(entry.group for entry in entries)
        self._ageing.check_invariants({entry.id for entry in entries if entry.can_age})
        assert self._ageing.promoted == {entry.id for entry in entries if entry.aged}
        placed = {entry.id: entry.engine_id for entry in entries if entry.engine_id is not None}
        assert placed == {id: engine.id for engine in self._engines.values() for id in engine.tasks}
        for engine in self._engines.values():
            engine.check_invariants()
            for task_id, placement in engine.tasks.items():
                entry = self._entries[task_id]
                assert (placement.key, placement.limit_ms) == (entry.key, self._policy.limit_ms(entry))
        if queued and self._engines and self._placer.look_again != -math.inf:
            assert len(self._engines) > 1, "one engine: nothing waits here"
            assert all(engine.tasks for engine in self._engines.values()), "nothing waits for an idle engine"
            assert self._queue.num_tokens <= self._placer.hold_tokens * len(self._engines)
