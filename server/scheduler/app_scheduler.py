"""Which engine gets which task, and in what order: the decisions above the engines.

Source: Algorithm 1 of OSDI'24 "Parrot", in a first form. Order is application-FIFO: by urgency, then the
arrival of the application, then topological order; so the successors of what runs come before applications
that arrived later. An engine keeps a queue of its own in the same order, so a ready task is placed at once;
it waits here only while no engine is up.

Responsible for: placements and keys. Pure: the same events give the same actions, and every event costs
O(log n + engines). Leaves carrying it out to the dispatcher, and what runs in a step to each engine.

    TaskReady --> queued --(an engine is up)--> placed --> TaskFinished | TaskCancelled
                    ^--------- EngineDown --------|
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from engine.types import Key, Objective
from server.scheduler.cost import Engine, footprint, placement_cost
from server.scheduler.events import (
    Abort,
    Action,
    Dispatch,
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
)

MAX_STORIES = 1000  # of tasks that have ended
MAX_IDLE_APPS = 10_000


@dataclass(slots=True)
class Entry:
    """A task that has not ended. `engine_id` None: it is queued."""

    spec: TaskSpec
    arrival: int
    objective: Objective
    group: str | None
    engine_id: int | None = None
    story: list[str] = field(default_factory=list)

    @property
    def key(self) -> Key:
        return self.objective.urgency, self.arrival, self.spec.order, self.spec.task_id


@dataclass(slots=True)
class App:
    """An application in the order of arrival, and where its last task went."""

    arrival: int
    num_tasks: int = 0
    engine_id: int | None = None


class AppScheduler:
    """Owns the queue, the placements, and what it knows of engines and applications."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._queue: list[tuple[Key, int]] = []  # stale entries are skipped when they come up
        self._engines: dict[int, Engine] = {}
        self._apps: dict[str, App] = {}
        self._idle_apps: OrderedDict[str, None] = OrderedDict()
        self._ended: OrderedDict[int, tuple[str, ...]] = OrderedDict()
        self._arrivals = 0
        self.num_queued = 0

    def handle(self, event: Event, now: float) -> list[Action]:
        """What follows from `event`, in the order to carry it out. `now` only dates stories."""
        match event:
            case TaskReady():
                return self._ready(event.spec, now)
            case TaskFinished():
                self._end(event.task_id, now, "finished")
                return []
            case TaskCancelled():
                return self._cancelled(event.task_id, now)
            case ObjectiveChanged():
                return self._objective_changed(event, now)
            case EngineUp():
                return self._engine_up(event, now)
            case EngineDown():
                return self._engine_down(event.engine_id, now)
            case EngineLoad():
                self._note_load(event)
                return []

    def story(self, task_id: int) -> tuple[str, ...]:
        """What happened to a task and why; of the tasks that have ended, the last thousand are remembered."""
        entry = self._entries.get(task_id)
        return tuple(entry.story) if entry is not None else self._ended.get(task_id, ())

    def _ready(self, spec: TaskSpec, now: float) -> list[Action]:
        assert spec.task_id not in self._entries, "a task is ready once"
        app = self._app(spec.app)
        app.num_tasks += 1
        entry = Entry(spec, app.arrival, spec.objective, spec.group)
        self._entries[spec.task_id] = entry
        _tell(
            entry,
            now,
            f"ready: app {spec.app}, {spec.num_tokens} tokens, urgency {entry.objective.urgency.name}",
        )
        self._enqueue(entry)
        return self._drain(now)

    def _cancelled(self, task_id: int, now: float) -> list[Action]:
        entry = self._entries.get(task_id)
        if entry is None:
            return []
        engine_id = entry.engine_id
        self._end(task_id, now, "cancelled")
        return [] if engine_id is None else [Abort(task_id, engine_id)]

    def _objective_changed(self, event: ObjectiveChanged, now: float) -> list[Action]:
        entry = self._entries.get(event.task_id)
        if entry is None or (entry.objective, entry.group) == (event.objective, event.group):
            return []
        entry.objective, entry.group = event.objective, event.group
        _tell(
            entry,
            now,
            f"objective: {event.objective.urgency.name}, step limit {event.objective.step_limit_ms}",
        )
        if entry.engine_id is not None:
            return [Reprioritise(event.task_id, entry.engine_id, entry.key, entry.objective)]
        heapq.heappush(self._queue, (entry.key, event.task_id))
        return []

    def _engine_up(self, event: EngineUp, now: float) -> list[Action]:
        engine = self._engines.setdefault(event.engine_id, Engine(event.engine_id, event.capacity))
        engine.capacity = event.capacity
        return self._drain(now)

    def _engine_down(self, engine_id: int, now: float) -> list[Action]:
        engine = self._engines.pop(engine_id, None)
        if engine is None:
            return []
        for task_id in engine.tasks:
            entry = self._entries[task_id]
            entry.engine_id = None
            _tell(entry, now, f"engine {engine_id} went down")
            self._enqueue(entry)
        return self._drain(now)

    def _note_load(self, event: EngineLoad) -> None:
        engine = self._engines.get(event.engine_id)
        if engine is not None:
            engine.num_running = event.num_running
            engine.num_waiting = event.num_waiting
            engine.free_tokens = event.free_tokens

    def _enqueue(self, entry: Entry) -> None:
        self.num_queued += 1
        heapq.heappush(self._queue, (entry.key, entry.spec.task_id))

    def _drain(self, now: float) -> list[Action]:
        actions: list[Action] = []
        while self._engines and self._queue:
            key, task_id = heapq.heappop(self._queue)
            entry = self._entries.get(task_id)
            if entry is not None and entry.engine_id is None and entry.key == key:
                actions.append(self._place(entry, now))
        return actions

    def _place(self, entry: Entry, now: float) -> Dispatch:
        spec, app = entry.spec, self._apps[entry.spec.app]

        def cost(engine: Engine) -> tuple[int, bool, int]:
            return placement_cost(engine, spec), engine.id != app.engine_id, engine.id

        engine = min(self._engines.values(), key=cost)
        _tell(
            entry,
            now,
            f"placed on engine {engine.id}: cost {placement_cost(engine, spec)} of "
            f"{len(self._engines)} engines, shares {engine.shared_tokens(spec)} tokens",
        )
        engine.place(spec)
        app.engine_id = entry.engine_id = engine.id
        self.num_queued -= 1
        return Dispatch(spec.task_id, engine.id, entry.key, entry.objective)

    def _end(self, task_id: int, now: float, how: str) -> None:
        entry = self._entries.pop(task_id, None)
        if entry is None:
            return
        if entry.engine_id is None:
            self.num_queued -= 1
        else:
            self._engines[entry.engine_id].remove(entry.spec)
        self._leave(entry.spec.app)
        _tell(entry, now, how)
        self._ended[task_id] = tuple(entry.story)
        if len(self._ended) > MAX_STORIES:
            self._ended.popitem(last=False)

    def _app(self, name: str) -> App:
        app = self._apps.get(name)
        if app is None:
            self._arrivals += 1
            app = self._apps[name] = App(self._arrivals)
        self._idle_apps.pop(name, None)
        return app

    def _leave(self, name: str) -> None:
        """An application keeps its place between two tasks; the ones that were idle longest are forgotten."""
        app = self._apps[name]
        app.num_tasks -= 1
        if not app.num_tasks:
            self._idle_apps[name] = None
            if len(self._idle_apps) > MAX_IDLE_APPS:
                del self._apps[self._idle_apps.popitem(last=False)[0]]

    def check_invariants(self) -> None:
        queued = {id for id, entry in self._entries.items() if entry.engine_id is None}
        assert self.num_queued == len(queued)
        assert not (queued and self._engines), "nothing waits while an engine is up"
        assert queued <= {id for key, id in self._queue if id in queued and self._entries[id].key == key}
        for engine in self._engines.values():
            specs = [self._entries[id].spec for id in engine.tasks]
            assert engine.promised == sum(map(footprint, specs))
            assert all(self._entries[id].engine_id == engine.id for id in engine.tasks)
        placed = {id for engine in self._engines.values() for id in engine.tasks}
        assert placed | queued == self._entries.keys()
        counts = Counter(entry.spec.app for entry in self._entries.values())
        for name, app in self._apps.items():
            assert app.num_tasks == counts[name]
            assert (app.num_tasks == 0) == (name in self._idle_apps)


def _tell(entry: Entry, now: float, what: str) -> None:
    entry.story.append(f"{now:.6f} {what}")
