"""Everything that can happen to a session, and what follows from it.

Responsible for: the shapes. An event is complete: applying the same events in the same order to a new Session
makes the same state, so a journal has to store nothing else. Effects are what the service has to do about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from engine.types import Objective
from server.graph.call import CallSpec, Task, VariableSpec

Ending = Literal["was deleted", "has expired", "made room for another one", "has ended with the server"]
"""How a session ends; "The session" stands before it."""


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """A variable that a submit asks for at once, under the name it was asked by."""

    variable: str
    name: str
    objective: Objective


class CallsSubmitted(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """`variables` are new ones, `values` existing ones that get a value. Orders: see `graph.order`."""

    variables: tuple[VariableSpec, ...]
    values: tuple[VariableSpec, ...]
    calls: tuple[CallSpec, ...]
    orders: tuple[tuple[int, ...], ...]
    moved: tuple[tuple[str, int], ...] = ()
    asked: tuple[Asked, ...] = ()


class VariableSet(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """`created`: nothing mentioned the variable before. No name: it is one that a call's output made."""

    id: str
    name: str | None
    value: str
    created: bool = False


class ObjectiveRequested(msgspec.Struct, frozen=True, tag=True):
    """A `get` of the variable with this id."""

    variable: str
    objective: Objective


class TaskStarted(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """An engine took it; again when another engine did. `reason`: why this one; None: it reads another's output."""

    task: str
    engine: int | None = None
    reason: str | None = None


class TaskOutput(msgspec.Struct, frozen=True, tag=True):
    """More text."""

    task: str
    text: str


class TaskFinished(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """`text` is all of it. `truncated`: a stop string ended it, so the ids may say more than the text.

    `queue_ms`: how long it waited in its engine.
    """

    task: str
    text: str
    token_ids: tuple[int, ...]
    truncated: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    queue_ms: float | None = None


class TaskFailed(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """`code` and `kind` are the code and the type of the error that a client would have got for it."""

    task: str
    message: str
    code: str = "engine_error"
    kind: str = "server_error"


class CallsCancelled(msgspec.Struct, frozen=True, tag=True):
    """One call, or several at once: then one that needs another is cancelled too, and has not failed."""

    calls: tuple[str, ...]


class SessionClosed(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    reason: Ending = "was deleted"


SessionEvent = (
    CallsSubmitted
    | VariableSet
    | ObjectiveRequested
    | TaskStarted
    | TaskOutput
    | TaskFinished
    | TaskFailed
    | CallsCancelled
    | SessionClosed
)


@dataclass(frozen=True, slots=True)
class Effects:
    """`ready`: run these. `aborted`: stop these, nothing about them counts any more.

    `variables` and the calls are ids: of variables that changed state or grew, of calls that began and ended.
    `reprioritised` are ready or running and have another objective or group.
    """

    ready: tuple[Task, ...] = ()
    aborted: tuple[Task, ...] = ()
    reprioritised: tuple[Task, ...] = ()
    variables: tuple[str, ...] = ()
    calls_started: tuple[str, ...] = ()
    calls_finished: tuple[str, ...] = ()

    @property
    def changed(self) -> tuple[str, ...]:
        """Ids of all that somebody may wait for."""
        return self.variables + self.calls_started + self.calls_finished
