"""Which engine a task goes to, and its place in that engine's queue.

Responsible for: placement and order over all applications. Pure: events in, actions out; the clock comes in as
`now`, and the same events give the same actions. First version: app-FIFO over topological order. A task is held
here only while no engine is up; engines have waiting queues of their own, sorted by the key that is given here.

    key = (urgency, arrival of the application, place in its topological order, task)

So the successors of an application that came early go before anything of one that came later (paper, 5.4).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from engine.types import Key, Objective
from server.scheduler.events import (
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

MAX_IDLE_APPS = 4096
"""Applications without a task that keep their place; the one idle for longest loses it first."""

MAX_PREFIXES = 4096
"""Prefixes per engine whose home is remembered."""

STORY_LENGTH = 4096
"""Tasks whose history `story` tells, the ended ones included."""


@dataclass(slots=True)
class _Engine:
    capacity: int
    tasks: set[int] = field(default_factory=set)
    tokens: int = 0  # prompt and output tokens that its tasks may hold
    prefixes: OrderedDict[bytes, None] = field(default_factory=OrderedDict)


@dataclass(slots=True)
class _App:
    arrival: int
    tasks: set[int] = field(default_factory=set)
    engine_id: int | None = None


@dataclass(slots=True)
class _Task:
    spec: TaskSpec
    objective: Objective
    engine_id: int | None = None


class AppScheduler:
    """Owns the queue and the placements."""

    def __init__(self) -> None:
        self._engines: dict[int, _Engine] = {}
        self._apps: dict[str, _App] = {}
        self._idle_apps: OrderedDict[str, None] = OrderedDict()
        self._tasks: dict[int, _Task] = {}
        self._arrivals = 0
        self._stories: OrderedDict[int, list[str]] = OrderedDict()

    def handle(self, event: Event, now: float) -> list[Action]:
        """What has to be done because of `event`. Unknown ids are ignored: their tasks have ended."""
        match event:
            case TaskReady(spec):
                return self._ready(spec, now)
            case TaskFinished(task_id) | TaskCancelled(task_id):
                self._finished(task_id, now)
                return []
            case ObjectiveChanged(task_id, objective, _):
                return self._objective(task_id, objective, now)
            case EngineUp(engine_id, capacity):
                self._engines[engine_id] = _Engine(capacity)
                return self._place_all(now)
            case EngineLoad():
                return []
            case EngineDown(engine_id):
                return self._engine_down(engine_id, now)

    def story(self, task_id: int) -> list[str]:
        """What has happened to a task, a line each; empty for one that is not known any more."""
        return list(self._stories.get(task_id, ()))

    def _ready(self, spec: TaskSpec, now: float) -> list[Action]:
        app = self._apps.get(spec.app)
        if app is None:
            app = self._apps[spec.app] = _App(self._arrivals)
            self._arrivals += 1
        self._idle_apps.pop(spec.app, None)
        app.tasks.add(spec.task_id)
        task = self._tasks[spec.task_id] = _Task(spec, spec.objective)
        self._tell(spec.task_id, now, f"ready: app {spec.app}, order {spec.order}, {spec.num_tokens} tokens")
        return [self._place(task, now)] if self._engines else []

    def _finished(self, task_id: int, now: float) -> None:
        task = self._tasks.pop(task_id, None)
        if task is None:
            return
        if task.engine_id is not None:
            engine = self._engines[task.engine_id]
            engine.tasks.discard(task_id)
            engine.tokens -= _size(task.spec)
        app = self._apps[task.spec.app]
        app.tasks.discard(task_id)
        if not app.tasks:
            self._idle_apps[task.spec.app] = None
            if len(self._idle_apps) > MAX_IDLE_APPS:
                del self._apps[self._idle_apps.popitem(last=False)[0]]
        self._tell(task_id, now, "ended")

    def _objective(self, task_id: int, objective: Objective, now: float) -> list[Action]:
        task = self._tasks.get(task_id)
        if task is None or task.objective == objective:
            return []
        task.objective = objective
        self._tell(task_id, now, f"objective: {objective.urgency.name.lower()}")
        if task.engine_id is None:
            return []
        return [Reprioritise(task_id, task.engine_id, self._key(task), objective)]

    def _engine_down(self, engine_id: int, now: float) -> list[Action]:
        """Its tasks wait for another engine; they stay in their place."""
        engine = self._engines.pop(engine_id, None)
        for task_id in engine.tasks if engine is not None else ():
            self._tasks[task_id].engine_id = None
            self._tell(task_id, now, f"engine {engine_id} went down")
        for app in self._apps.values():
            if app.engine_id == engine_id:
                app.engine_id = None
        return self._place_all(now)

    def _place_all(self, now: float) -> list[Action]:
        if not self._engines:
            return []
        waiting = [task for task in self._tasks.values() if task.engine_id is None]
        return [self._place(task, now) for task in sorted(waiting, key=self._key)]

    def _place(self, task: _Task, now: float) -> Dispatch:
        spec = task.spec
        engine_id = min(self._engines, key=lambda id: (self._cost(spec, id), id))
        engine = self._engines[engine_id]
        engine.tasks.add(spec.task_id)
        engine.tokens += _size(spec)
        for prefix in spec.prefix_hashes:
            engine.prefixes[prefix] = None
            engine.prefixes.move_to_end(prefix)
        while len(engine.prefixes) > MAX_PREFIXES:
            engine.prefixes.popitem(last=False)
        task.engine_id = self._apps[spec.app].engine_id = engine_id
        self._tell(spec.task_id, now, f"placed on engine {engine_id}: {engine.tokens} of {engine.capacity} tokens")
        return Dispatch(spec.task_id, engine_id, self._key(task), task.objective)

    def _cost(self, spec: TaskSpec, engine_id: int) -> int:
        """Tokens in front of it there, and those it has to compute because no KV of its prompt is there."""
        engine = self._engines[engine_id]
        if not spec.prefix_hashes:
            resident = self._apps[spec.app].engine_id == engine_id
            return engine.tokens + (0 if resident else spec.num_tokens)
        known = sum(1 for prefix in spec.prefix_hashes if prefix in engine.prefixes)
        return engine.tokens + spec.num_tokens * (len(spec.prefix_hashes) - known) // len(spec.prefix_hashes)

    def _key(self, task: _Task) -> Key:
        spec = task.spec
        return (int(task.objective.urgency), self._apps[spec.app].arrival, spec.order, spec.task_id)

    def _tell(self, task_id: int, now: float, line: str) -> None:
        story = self._stories.setdefault(task_id, [])
        story.append(f"{now:.6f} {line}")
        while len(self._stories) > STORY_LENGTH:
            self._stories.popitem(last=False)

    def check_invariants(self) -> None:
        """Raises AssertionError when queue, placements and loads do not agree."""
        for engine_id, engine in self._engines.items():
            placed = {id for id, task in self._tasks.items() if task.engine_id == engine_id}
            assert engine.tasks == placed
            assert engine.tokens == sum(_size(self._tasks[id].spec) for id in placed)
        for task in self._tasks.values():
            assert task.engine_id in self._engines if self._engines else task.engine_id is None
        for name, app in self._apps.items():
            assert app.tasks == {id for id, task in self._tasks.items() if task.spec.app == name}
            assert (name in self._idle_apps) == (not app.tasks)


def _size(spec: TaskSpec) -> int:
    return spec.num_tokens + spec.max_tokens
