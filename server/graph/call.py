"""Calls and tasks: what was submitted, and how far it has come.

A Call is one submitted template. A Task is one of its outputs together with the fills before it: a call with
k outputs is k tasks that share one context, each going on after the one before. What follows the last output
is never needed.

    You are {{input:role}}. Plan: {{output:plan}} Code for {{input:task}}: {{output:code}} Thanks!
    |------------- task 0 -------------------| |------------- task 1 ---------------|  nothing

Responsible for: the specs, complete and immutable (a journal can store them; they cannot form cycles, so the
garbage collector need not look at them), and the state that `CallGraph` alone changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from engine.types import Objective
from parrot import wire
from server.generation import GenerationParams
from server.graph.objective import DEFAULT, Demand
from server.graph.prefix import Fill, Kept
from server.graph.template import Constant, Output, Segment
from server.graph.variable import SemanticVariable

TaskState = Literal["waiting", "ready", "running", "done", "failed", "cancelled"]
CallState = Literal["pending", "ready", "running", "done", "failed", "cancelled"]
Share = Literal["tenant", "public"]


NO_USAGE = wire.Usage()


class VariableSpec(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A variable that a submit made. No name: only its id refers to it."""

    id: str
    name: str | None = None
    value: str | None = None


class InputSpec(msgspec.Struct, frozen=True, array_like=True, gc=False):
    name: str
    variable: str
    transforms: str | None = None


class OutputSpec(msgspec.Struct, frozen=True, array_like=True, gc=False):
    name: str
    variable: str
    params: GenerationParams
    transforms: str | None = None


class CallSpec(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A valid call. `outputs` are in the template's order; `chat`: special tokens are in the text."""

    id: str
    segments: tuple[Segment, ...]
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    chat: bool = False
    model: str | None = None
    share: Share = "tenant"
    objective: Objective | None = None
    warnings: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Characters of the constants."""
        return sum(len(segment.text) for segment in self.segments if isinstance(segment, Constant))


@dataclass(slots=True)
class Progress:
    """When things happened to a task (seconds since the epoch), and what it took.

    `reason`: why it went to this engine. `queue_ms`: how long it waited there until its first step.
    """

    ready: float | None = None
    started: float | None = None
    finished: float | None = None
    engine: int | None = None
    reason: str | None = None
    queue_ms: float | None = None
    usage: wire.Usage = NO_USAGE

    @property
    def began(self) -> float | None:
        """Its first step, as far as it is known: before its end only when an engine took it."""
        return None if self.started is None else self.started + (self.queue_ms or 0.0) / 1e3

    @property
    def queued_ms(self) -> float | None:
        """From its inputs being there, for a place and then in the engine."""
        if self.ready is None or self.began is None:
            return None
        return round((self.began - self.ready) * 1e3, 3)


@dataclass(slots=True, eq=False)
class Task:
    """One output. `start` and `end`: its segments, the output not included. `missing`: unmet dependencies.

    `order` is topological: a task's is greater than that of every task it depends on.
    """

    id: str
    call: Call
    index: int
    start: int
    end: int
    reads: tuple[SemanticVariable, ...]
    output: SemanticVariable
    order: int
    state: TaskState = "waiting"
    missing: int = 0
    demand: Demand = DEFAULT
    kept: Kept | None = None
    progress: Progress = field(default_factory=Progress)

    @property
    def spec(self) -> OutputSpec:
        return self.call.spec.outputs[self.index]

    @property
    def params(self) -> GenerationParams:
        return self.spec.params

    @property
    def objective(self) -> Objective:
        return self.demand.objective

    @property
    def group(self) -> str | None:
        """The task group that it is scheduled with, if any."""
        return self.demand.group

    @property
    def ended(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    @property
    def previous(self) -> Task | None:
        """The task whose context this one continues."""
        return self.call.tasks[self.index - 1] if self.index else None

    @property
    def next(self) -> Task | None:
        following = self.index + 1
        return self.call.tasks[following] if following < len(self.call.tasks) else None

    @property
    def is_followed(self) -> bool:
        """Whether a task waits for nothing but this one, as far as is known now."""
        return any(other is not None and other.missing == 1 for other in (self.next, *self.output.consumers))

    def context(self) -> tuple[Fill | Kept, ...]:
        """What it generates from: every fill and output of its call before its own output."""
        pieces: list[Fill | Kept] = []
        outputs = iter(self.call.tasks)
        for segment in self.call.spec.segments[: self.end]:
            if isinstance(segment, Constant):
                pieces.append(Fill(segment.text))
            elif isinstance(segment, Output):
                kept = next(outputs).kept
                assert kept is not None, "a task runs after those before it in its call"
                pieces.append(kept)
            else:
                pieces.append(Fill(self.call.filled[segment.name], is_variable=True))
        return tuple(pieces)

    def known_context(self, *, streamed: bool) -> tuple[Fill | Kept, ...]:
        """What its context begins with, as far as that is known while it waits. `streamed`: with the text so far of
        an input that is being generated and goes in as it is."""
        pieces: list[Fill | Kept] = []
        outputs = iter(self.call.tasks)
        inputs = {item.name: item for item in self.call.spec.inputs}
        variables = {variable.id: variable for variable in self._all_reads()}
        for segment in self.call.spec.segments[: self.end]:
            if isinstance(segment, Constant):
                pieces.append(Fill(segment.text))
            elif isinstance(segment, Output):
                if (kept := next(outputs).kept) is None:
                    break
                pieces.append(kept)
            elif segment.name in self.call.filled:
                pieces.append(Fill(self.call.filled[segment.name], is_variable=True))
            else:
                item = inputs[segment.name]
                variable = variables[item.variable]
                if item.transforms is None and variable.state == "ready":
                    pieces.append(Fill(variable.value or "", is_variable=True))
                    continue
                if (
                    streamed
                    and item.transforms is None
                    and variable.state == "running"
                    and variable.is_streamed
                ):
                    pieces.append(Fill(variable.since(0), is_variable=True))
                break
        return tuple(pieces)

    def _all_reads(self) -> Iterator[SemanticVariable]:
        for task in self.call.tasks[: self.index + 1]:
            yield from task.reads

    def context_size(self) -> int:
        """Characters of the context's text."""
        size, outputs = 0, iter(self.call.tasks)
        for segment in self.call.spec.segments[: self.end]:
            if isinstance(segment, Constant):
                size += len(segment.text)
            elif isinstance(segment, Output):
                kept = next(outputs).kept
                size += 0 if kept is None else len(kept.text)
            else:
                size += len(self.call.filled[segment.name])
        return size


@dataclass(slots=True, eq=False)
class Call:
    """`filled`: the inputs as they go into the prompt, after their transforms, as far as they were needed."""

    spec: CallSpec
    created: float
    tasks: tuple[Task, ...] = ()
    filled: dict[str, str] = field(default_factory=dict)
    unfinished: int = 0

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def state(self) -> CallState:
        states = {task.state for task in self.tasks}
        if self.unfinished == 0:
            return "cancelled" if "cancelled" in states else "failed" if self._failed else "done"
        if "running" in states or "done" in states:
            return "running"
        return "ready" if "ready" in states else "pending"

    @property
    def _failed(self) -> bool:
        """Also when an output was generated but its transform failed."""
        return any(task.output.state == "failed" for task in self.tasks)

    @property
    def error(self) -> wire.VariableError | None:
        failures = (task.output.failure for task in self.tasks)
        return next((failure.error() for failure in failures if failure is not None), None)
