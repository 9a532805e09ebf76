"""Transforms that are applied once for one event, and if they are much, on a thread before it.

    {{output:x}} -- its own pipeline --> value of x --+-- pipeline 1 --> input of thousands of calls
                                                      +-- pipeline 2 --> ...

Each application is bounded (`transform.BUDGET_NS`), but a value may go through a different one for every call that
reads it. `of_output`, `of_value` and `of_submit` say which ones an event will ask for, `Pending.apply` may run on
any thread, and what it gives back is put into the graph's `Transforms`, where the event finds it.

Responsible for: that. Nothing depends on it but time: what was not prepared is applied when it is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from server.graph import transform
from server.graph.transform import TransformError

if TYPE_CHECKING:
    from server.graph.call import CallSpec, Task
    from server.graph.variable import SemanticVariable

Applied = Mapping[tuple[str, str], str | TransformError]
"""What came of (pipeline, text)."""

MUCH = 20_000
"""Characters to transform, from which on a thread is worth its while."""


@dataclass(slots=True)
class Transforms:
    """Owns what was applied during one event, or ahead of it."""

    _applied: dict[tuple[str, str], str | TransformError] = field(default_factory=dict)

    def know(self, applied: Applied) -> None:
        self._applied.update(applied)

    def forget(self) -> None:
        """The event is over."""
        self._applied.clear()

    def apply(self, source: str, text: str) -> str:
        """Raises TransformError."""
        found = self._applied.get((source, text))
        if found is None:
            found = self._applied[source, text] = _apply(source, text)
        if isinstance(found, TransformError):
            raise found
        return found


@dataclass(frozen=True, slots=True)
class Pending:
    """`own`: the pipeline that makes the value of `text`; `of_value`: those that the value then goes through, and
    `others` what goes with it."""

    text: str
    own: str | None
    of_value: tuple[str, ...]
    others: tuple[tuple[str, str], ...]

    @property
    def size(self) -> int:
        """Characters, as if the value had as many as the text."""
        count = len(self.of_value) + (self.own is not None)
        return count * len(self.text) + sum(len(text) for _, text in self.others)

    def apply(self) -> Applied:
        applied: dict[tuple[str, str], str | TransformError] = {}
        value: str | TransformError = self.text
        if self.own is not None:
            value = applied[self.own, self.text] = _apply(self.own, self.text)
        pairs = list(self.others)
        if isinstance(value, str):
            pairs += [(source, value) for source in self.of_value]
        for source, text in pairs:
            applied[source, text] = _apply(source, text)
        return applied


def of_output(task: Task, text: str) -> Pending:
    """What will be applied when a task ends with this text."""
    return _pending(text, task.spec.transforms, task.output)


def of_value(variable: SemanticVariable, value: str) -> Pending:
    """What will be applied when a client gives it this value."""
    return _pending(value, None, variable)


def of_submit(calls: Iterable[CallSpec], values: Mapping[str, str]) -> Pending:
    """What will be applied when these are submitted; `values`, by id: of the variables that have one by then."""
    pairs: dict[tuple[str, str], None] = {}
    for call in calls:
        if all(item.variable in values for item in call.inputs):
            pairs.update(
                ((item.transforms, values[item.variable]), None) for item in call.inputs if item.transforms
            )
    return Pending("", None, (), tuple(pairs))


def _pending(text: str, own: str | None, variable: SemanticVariable) -> Pending:
    of_value: dict[str, None] = {}
    others: dict[tuple[str, str], None] = {}
    for consumer in variable.consumers:
        if consumer.state != "waiting" or consumer.missing != 1:
            continue
        for source, id, value in _inputs(consumer):
            if id == variable.id:
                of_value[source] = None
            elif value is not None:
                others[source, value] = None
    return Pending(text, own, tuple(of_value), tuple(others))


def _inputs(task: Task) -> Iterator[tuple[str, str, str | None]]:
    """(pipeline, variable, its value) of what a task has to fill in with a pipeline."""
    items = [item for item in task.call.spec.inputs if item.transforms and item.name not in task.call.filled]
    if not items:
        return
    values = {variable.id: variable.value for variable in task.reads}
    for item in items:
        if item.transforms and item.variable in values:
            yield item.transforms, item.variable, values[item.variable]


def _apply(source: str, text: str) -> str | TransformError:
    try:
        return transform.parse(source).apply(text)
    except TransformError as error:
        return error
