"""A semantic variable: a named text that is assigned once, and what has become of it.

    empty -> pending -> running -> ready | failed | cancelled       (a client's value: empty -> ready)

Responsible for: the value or the text so far, the failure and its chain of causes. Only `CallGraph` changes a
variable; everybody else reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.types import Objective
from parrot import wire

if TYPE_CHECKING:
    from server.graph.call import Task

MAX_CAUSES = 8  # of a chain that are shown; the root always is
ENDED: frozenset[wire.VariableState] = frozenset({"ready", "failed", "cancelled"})
"""States in which a variable stays."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why `variable` has no value. Links share their tails, so a chain of n failures takes n links.

    `root`: the last of the causes. `type`: OpenAI's, of what failed first.
    """

    variable: str
    message: str
    code: str
    call: str | None = None
    type: str = "invalid_request_error"
    cause: Failure | None = None
    root: Failure | None = None

    def inherited(self, variable: str, call: str) -> Failure:
        """What it means for a variable that cannot be made without this one."""
        message = f"{self.variable!r}, which it needs, has no value"
        return Failure(variable, message, "dependency_failed", call, self.type, self, self.root or self)

    def error(self, max_causes: int = MAX_CAUSES) -> wire.VariableError:
        """With the chain of causes, nearest first; the middle of a long one is left out."""
        causes: list[wire.Cause] = []
        link = self.cause
        while link is not None:
            causes.append(wire.Cause(variable=link.variable, message=link.message, call=link.call))
            link = link.cause if len(causes) < max_causes - 1 else link.root
        return wire.VariableError(message=self.message, type=self.type, code=self.code, cause=causes)


@dataclass(slots=True, eq=False)
class SemanticVariable:
    """`name` is the id for a variable that a call's `value` made. `requested`: the strictest `get` so far.

    `is_streamed`: its text may be shown while it grows, because no transform comes after it.
    """

    id: str
    name: str
    state: wire.VariableState = "empty"
    value: str | None = None
    failure: Failure | None = None
    producer: Task | None = None
    consumers: list[Task] = field(default_factory=list)
    requested: Objective | None = None
    is_streamed: bool = True
    length: int = 0
    _parts: list[str] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def since(self, position: int) -> str:
        """The text after the first `position` characters; takes as long as what is new."""
        if self.value is not None:
            return self.value[position:]
        found: list[str] = []
        start = self.length
        for part in reversed(self._parts):
            if start <= position:
                break
            start -= len(part)
            found.append(part)
        text = "".join(reversed(found))
        return text[position - start :] if position > start else text

    def grow(self, text: str) -> None:
        self._parts.append(text)
        self.length += len(text)

    def resolve(self, value: str) -> None:
        self.state, self.value, self.length = "ready", value, len(value)
        self._parts.clear()

    def fail(self, failure: Failure, state: wire.VariableState) -> None:
        self.state, self.failure = state, failure
        self._parts.clear()
