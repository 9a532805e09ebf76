"""What the application scheduler is told, and what it decides.

Responsible for: the shapes, all frozen and tagged, so that a run can be recorded and played again. Task ids
are the dispatcher's and are never used twice.
"""

from __future__ import annotations

import msgspec

from engine.types import Key, Objective
from server.scheduler.calibration import Calibration


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A task whose inputs exist, as far as its placement depends on it.

    `app` is the session or request that it belongs to, `order` its topological order therein, `num_tokens`
    the length of its prompt. `prefix_hashes` and `prefix_tokens` are aligned: the hash of so many leading ids
    of the prompt, ascending (`graph.prefix.prefix_hashes`). `expected_tokens`: of the output, where somebody can
    tell; else `max_tokens` counts. `group_size`: how many tasks its group will have, itself included, where known.

    `remaining_steps`: what its application has left to do, itself included, in steps of one sequence; None: nobody
    knows, so its own counts. `following_steps`: how much of that has to wait for it, one call after another.
    `age_s`: how long ago its call was submitted.
    """

    task_id: int
    app: str
    num_tokens: int
    max_tokens: int
    tenant: str = ""
    order: int = 0
    objective: Objective = Objective()
    group: str | None = None
    group_size: int = 1
    expected_tokens: int | None = None
    remaining_steps: int | None = None
    following_steps: int = 0
    age_s: float = 0.0
    ahead: tuple[int, int] | None = None
    prefix_hashes: tuple[bytes, ...] = ()
    prefix_tokens: tuple[int, ...] = ()
    model: str = ""


class TaskReady(msgspec.Struct, frozen=True, tag=True):
    spec: TaskSpec


class TaskStarted(msgspec.Struct, frozen=True, tag=True):
    """Its first token came: it does not wait any more."""

    task_id: int


class TaskFinished(msgspec.Struct, frozen=True, tag=True):
    """It generated all it had to, or its engine refused it: it holds nothing any more."""

    task_id: int


class TaskCancelled(msgspec.Struct, frozen=True, tag=True):
    """Nobody wants it any more; where it runs it has to be stopped. After its end this means nothing."""

    task_id: int


class ObjectiveChanged(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    task_id: int
    objective: Objective
    group: str | None = None


class EngineUp(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """The engine takes requests. Again: it was calibrated anew.

    `capacity` is its KV cache in tokens, `max_num_seqs` the sequences that it runs at once (None: any number),
    `calibration` what a limit per step leaves of the capacity (None: everything).
    """

    engine_id: int
    capacity: int
    max_num_seqs: int | None = None
    calibration: Calibration | None = None


class EngineDown(msgspec.Struct, frozen=True, tag=True):
    """It lost all that it had; its tasks have to be placed again."""

    engine_id: int


class Resume(msgspec.Struct, frozen=True, tag=True):
    """Go on with what was too much for one event (`AppScheduler.has_more`)."""


class EngineLoad(msgspec.Struct, frozen=True, tag=True):
    """What the engine says about itself, from a StepReport."""

    engine_id: int
    num_running: int
    num_waiting: int
    free_tokens: int


Event = (
    TaskReady
    | TaskStarted
    | TaskFinished
    | TaskCancelled
    | ObjectiveChanged
    | EngineUp
    | EngineDown
    | EngineLoad
    | Resume
)


class Dispatch(msgspec.Struct, frozen=True, tag=True):
    """Send the task to this engine. Comes again, for another engine, when the first one went down."""

    task_id: int
    engine_id: int
    key: Key
    objective: Objective


class Reprioritise(msgspec.Struct, frozen=True, tag=True):
    """Tell the engine that has the task."""

    task_id: int
    engine_id: int
    key: Key
    objective: Objective


class Abort(msgspec.Struct, frozen=True, tag=True):
    """Stop the task on this engine."""

    task_id: int
    engine_id: int


Action = Dispatch | Reprioritise | Abort
