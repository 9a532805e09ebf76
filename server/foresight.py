"""What a session's graph says about work that is still to come, told to whom it helps.

Responsible for: how long outputs will be, how much work a session has left, and hints to the engines about KV:
when it is wanted next, and that it is not wanted any more. One for each session. Says only what may be wrong: a
task gets the same text whatever was said here. Leaves to others: the estimates (`graph.forecast`,
`server.lengths`), running tasks (`server.session_runner`), what an engine makes of a hint (its radix tree).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from engine.types import Hint
from server.graph.forecast import Forecast, leading_constants
from server.lengths import Lengths, template_of
from server.scheduler.dispatcher import Dispatcher
from server.session.events import CallsSubmitted, Effects
from server.session.session import Session
from server.tenant import Tenant

if TYPE_CHECKING:
    from server.graph.call import Task
    from server.graph.prefix import Context

REMEMBERED = 64
"""Tasks of an open session that have ended, whose KV is released with the session."""


class Host(Protocol):
    """What this needs of the server around it."""

    @property
    def dispatcher(self) -> Dispatcher: ...
    @property
    def lengths(self) -> Lengths: ...
    @property
    def disabled(self) -> frozenset[str]: ...


class Foresight:
    """Owns the session's forecast. `submitted` and `changed` follow every event that was applied."""

    def __init__(self, session: Session, tenant: Tenant, host: Host) -> None:
        self._session = session
        self._tenant = tenant
        self._host = host
        self._hinting = "next-use-eviction" not in host.disabled
        self._forecast = Forecast()
        self._templates: dict[Task, bytes] = {}
        self._left: deque[tuple[int, Hint]] = deque(maxlen=REMEMBERED)

    @property
    def remaining(self) -> int:
        """Steps of one sequence that the session's work would take."""
        return self._forecast.remaining

    def following(self, task: Task) -> int:
        """Of these, how many there are from a task's end on if all tasks that can run at once do."""
        return self._forecast.following(task)

    def at_most(self, task: Task) -> int:
        """Tokens that its output is likely not to exceed."""
        return self._host.lengths.at_most(
            self._tenant.id, self._template(task), task.params.sampling.max_tokens
        )

    def home(self, task: Task) -> int | None:
        """The engine that has the beginning of its prompt from this session's other tasks."""
        return self._forecast.home(task)

    def submitted(self, event: CallsSubmitted) -> None:
        calls = self._session.graph.calls
        self._forecast.add((task for spec in event.calls for task in calls[spec.id].tasks), self._expected)

    def changed(self, effects: Effects) -> None:
        for id in effects.variables:
            task = self._session.graph.variables[id].producer
            if task is not None and task.ended:
                self._forecast.ended(task)

    def generated(self, task: Task, context: Context, place: tuple[int, int], num_tokens: int) -> None:
        """A task has run, from `context`; `place`: the engine and the request's id there."""
        self._host.lengths.observe(self._tenant.id, self._template(task), num_tokens)
        self._forecast.ran(task, place[0])
        if self._hinting:
            self._hint(task, context, *place)

    def closed(self) -> None:
        """The session has ended: nothing of it is wanted any more."""
        for engine_id, hint in self._left:
            self._host.dispatcher.pool.hint(engine_id, hint)
        self._left.clear()

    def _hint(self, task: Task, context: Context, engine_id: int, number: int) -> None:
        """What a waiting task will match is wanted then. Beyond it, and beyond the constants that the template
        begins with, what a program's task leaves is of no more use; that of an open session may be."""
        pool = self._host.dispatcher.pool
        ends = (*context.ends, None)  # with the output: all of it
        kept = context.ends[leading - 1] if (leading := leading_constants(task.call)) else 0
        release = Hint(id=number, begin=kept)
        for use in self._forecast.next_uses(task):
            end = ends[use.pieces - 1]
            pool.hint(engine_id, Hint(id=number, next_use=use.steps, end=end))
            release = Hint(
                id=number, begin=max(kept, release.begin, len(context.token_ids) if end is None else end)
            )
        if self._session.evictable:
            pool.hint(engine_id, release)
        else:
            self._left.append((engine_id, Hint(id=number, begin=kept)))

    def _expected(self, task: Task) -> int:
        return self._host.lengths.expected(
            self._tenant.id, self._template(task), task.params.sampling.max_tokens
        )

    def _template(self, task: Task) -> bytes:
        found = self._templates.get(task)
        if found is None:
            found = self._templates[task] = template_of(self._tenant.id, task)
        return found
