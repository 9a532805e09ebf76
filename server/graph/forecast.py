"""When the tasks of a session are likely to run, and so when what is in the KV cache is wanted again.

    begin(task) = the latest end of all that it waits for       end(task) = begin + 1 + expected output tokens

in steps of an engine, as if every task ran alone. What counts is how far two tasks are apart: a chain's are as
far as this says, and where everything waits longer, everything does. A boundary of a prompt stands for the pieces
before it (constant texts, variables, outputs): whoever reads the output of a task behind that task's own prompt
continues its KV. Source: next-use eviction as in KVFlow (arXiv 2507.07400), with the distances of the call graph.

Responsible for: these estimates, the work that is left, and the next user of each boundary. Estimates only: nothing
breaks when they are wrong. Leaves to others: how long outputs are (`server.lengths`), and what follows from it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from server.graph.call import Call, Task
from server.graph.template import Constant, Input

PROMPT_CHARACTERS_PER_STEP = 128
"""Of a prompt, as long to compute as one more token is to decode: about 32 tokens."""


@dataclass(frozen=True, slots=True)
class NextUse:
    """The first `pieces` segments of a call's template are wanted in so many `steps`."""

    pieces: int
    steps: int


@dataclass(frozen=True, slots=True)
class _Span:
    """Steps from the session's first one. `work`: of this task alone."""

    begin: int
    end: int
    work: int


@dataclass(slots=True)
class Forecast:
    """Owns the spans of the tasks that have not ended, who waits for which boundary, and where each was computed
    last. `remaining`: the sum of their work, in steps of one sequence; `end`: of the last one."""

    remaining: int = 0
    end: int = 0
    _spans: dict[Task, _Span] = field(default_factory=dict)
    _unfinished: set[Task] = field(default_factory=set)
    _users: dict[int, list[tuple[int, int, Task]]] = field(default_factory=dict)
    _boundaries: dict[Call, tuple[int, ...]] = field(default_factory=dict)
    _engines: dict[int, int] = field(default_factory=dict)
    _count: int = 0

    def add(self, tasks: Iterable[Task], expected: Callable[[Task], int]) -> None:
        """A submit. `expected`: tokens of a task's output."""
        for task in sorted(tasks, key=_order):
            begin = max(
                (self._spans[other].end for other in _awaited(task) if other in self._spans), default=0
            )
            work = 1 + expected(task) + _prompt_steps(task)
            self._spans[task] = _Span(begin, begin + work, work)
            self.remaining += work
            self.end = max(self.end, begin + work)
            self._unfinished.add(task)
            for boundary in self._waits_for(task):
                self._count += 1
                heapq.heappush(self._users.setdefault(boundary, []), (begin, self._count, task))

    def ended(self, task: Task) -> None:
        """Whatever ended it; the first time counts."""
        if task in self._unfinished:
            self._unfinished.remove(task)
            self.remaining -= self._spans[task].work

    def following(self, task: Task) -> int:
        """Steps from the end of a task that has not ended to the end of all; no more than are left beside it."""
        span = self._spans[task]
        return max(0, min(self.end - span.end, self.remaining - span.work))

    def ran(self, task: Task, engine_id: int) -> None:
        """Its prompt and its output are in the cache there."""
        self._engines.update(dict.fromkeys(self._boundaries_of(task.call)[: task.end + 1], engine_id))

    def home(self, task: Task) -> int | None:
        """The engine that computed last what its prompt begins with, as much of it as any has; None: none has."""
        boundaries = reversed(self._boundaries_of(task.call)[: task.end])
        return next((self._engines[boundary] for boundary in boundaries if boundary in self._engines), None)

    def next_uses(self, task: Task) -> Iterator[NextUse]:
        """Of what a task leaves that has run: the longest first, then shorter ones that are wanted sooner."""
        span, soonest = self._spans[task], None
        for pieces in range(task.end + 1, 0, -1):
            user = self._next_user(self._boundaries_of(task.call)[pieces - 1])
            if user is None:
                continue
            steps = 1 if user.state == "ready" else max(1, self._spans[user].begin - span.end)
            if soonest is None or steps < soonest:
                soonest = steps
                yield NextUse(pieces, steps)

    def _next_user(self, boundary: int) -> Task | None:
        users = self._users.get(boundary)
        while users:
            task = users[0][2]
            if task.state in ("waiting", "ready"):
                return task
            heapq.heappop(users)
            if not users:
                del self._users[boundary]
        return None

    def _waits_for(self, task: Task) -> tuple[int, ...]:
        """The boundaries that a task may find in the cache when it begins."""
        boundaries = self._boundaries_of(task.call)
        return boundaries[: task.end] if task.index == 0 else boundaries[task.start - 1 : task.start]

    def _boundaries_of(self, call: Call) -> tuple[int, ...]:
        """After each segment of its template, up to the last output."""
        found = self._boundaries.get(call)
        if found is None:
            found = self._boundaries[call] = tuple(_boundaries(call))
        return found

    def check_invariants(self) -> None:
        assert self.remaining == sum(self._spans[task].work for task in self._unfinished)
        assert all(span.end == span.begin + span.work for span in self._spans.values())
        for users in self._users.values():
            assert users
            assert users[0] == min(users)


def leading_constants(call: Call) -> int:
    """How many segments at the start of its template are text."""
    segments = call.spec.segments
    return next((n for n, segment in enumerate(segments) if not isinstance(segment, Constant)), len(segments))


def _boundaries(call: Call) -> Iterator[int]:
    inputs = {item.name: (item.variable, item.transforms) for item in call.spec.inputs}
    outputs = {item.name: item.variable for item in call.spec.outputs}
    value = hash((call.spec.chat, call.spec.share))
    for segment in call.spec.segments[: call.tasks[-1].end + 1]:
        if isinstance(segment, Constant):
            value = hash((value, segment.text))
        elif isinstance(segment, Input):
            value = hash((value, *inputs[segment.name]))
        else:
            value = hash((value, outputs[segment.name], None))
        yield value


def _awaited(task: Task) -> Iterator[Task]:
    if task.previous is not None:
        yield task.previous
    for variable in task.reads:
        if variable.producer is not None:
            yield variable.producer


def _prompt_steps(task: Task) -> int:
    segments = task.call.spec.segments[task.start : task.end]
    size = sum(len(segment.text) for segment in segments if isinstance(segment, Constant))
    size += sum(len(variable.value) for variable in task.reads if variable.value is not None)
    return size // PROMPT_CHARACTERS_PER_STEP


def _order(task: Task) -> int:
    return task.order
