"""What happens to the AppScheduler (events) and what it wants done (actions). Immutable; ids are the server's."""

from __future__ import annotations

from dataclasses import dataclass

from engine.types import Key, Objective


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What the scheduler needs to know of a task. `order`: its place in its app's topological order.

    `prefix_hashes`, `prefix_tokens`: hash and position of every variable boundary of its prompt, in order.
    """

    task_id: int
    app: str
    tenant: str
    order: int
    num_tokens: int
    max_tokens: int
    objective: Objective
    group: str | None = None
    prefix_hashes: tuple[bytes, ...] = ()
    prefix_tokens: tuple[int, ...] = ()
    model: str = ""


@dataclass(frozen=True, slots=True)
class TaskReady:
    spec: TaskSpec


@dataclass(frozen=True, slots=True)
class TaskFinished:
    """It ended, in whatever way; its engine holds nothing for it any more."""

    task_id: int


@dataclass(frozen=True, slots=True)
class TaskCancelled:
    task_id: int


@dataclass(frozen=True, slots=True)
class ObjectiveChanged:
    task_id: int
    objective: Objective
    group: str | None = None


@dataclass(frozen=True, slots=True)
class EngineUp:
    engine_id: int
    capacity_tokens: int


@dataclass(frozen=True, slots=True)
class EngineDown:
    engine_id: int


@dataclass(frozen=True, slots=True)
class EngineLoad:
    engine_id: int
    num_running: int
    num_waiting: int
    free_tokens: int


Event = TaskReady | TaskFinished | TaskCancelled | EngineLoad | ObjectiveChanged | EngineUp | EngineDown


@dataclass(frozen=True, slots=True)
class Dispatch:
    task_id: int
    engine_id: int
    key: Key
    objective: Objective


@dataclass(frozen=True, slots=True)
class Reprioritise:
    task_id: int
    engine_id: int
    key: Key
    objective: Objective


@dataclass(frozen=True, slots=True)
class Abort:
    task_id: int
    engine_id: int


Action = Dispatch | Reprioritise | Abort
