"""Prefill of calls that still wait for inputs: what is known of their prompts is computed beside other work.

    submit              the constants that a call begins with, once what it waits for has its place
    an input arrives    up to the next input that is missing
    an input grows      its text so far, every few hundred characters ("streamed")

Only ids that stay whatever comes next are computed (`prefix.settled`), and nothing depends on it: the call is
submitted with all its ids, and takes from the cache what is equal. So a wrong guess costs work, never an answer.

Responsible for: when and how far, for one session; that it is called off when its call runs or ends. Leaves to
others: the engine (Dispatcher), what a step has left for such work (BatchScheduler: last in every order, dropped
first). Source: prompt splitting as in FlashAgents and Sutradhara (arXiv 2601.12967).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from engine.types import Salt
from server.graph import prefix
from server.graph.prefix import PUBLIC_SALT, Fill, Kept
from server.graph.template import Constant
from server.graph.variable import SemanticVariable
from server.scheduler.dispatcher import Dispatcher
from server.session.events import CallsSubmitted, Effects
from server.session.session import Session
from server.tenant import Tenant
from server.tokenizer import LONG_TEXT, Tokenizer

if TYPE_CHECKING:
    from server.graph.call import Task

log = logging.getLogger(__name__)

MIN_TOKENS = 32
"""More than what was computed already, below which it is not worth a request."""

MIN_CHARACTERS = 256
GROWTH = 1.25
"""A growing input is looked at again when the prompt has so many more characters, and so many times as many: each
look encodes all of it."""

DELAY_S = 0.05
"""From an input's arrival to looking at who waits for more. Calls of one stage end within a few steps; a prefill
for each of them would be in the way of the call that waits for the last one."""

MAX_CONSUMERS = 8
"""Of one variable."""


class Host(Protocol):
    """What this needs of the server around it."""

    @property
    def dispatcher(self) -> Dispatcher: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def max_model_len(self) -> int: ...
    @property
    def disabled(self) -> frozenset[str]: ...


@dataclass(slots=True)
class _Look:
    """How far a waiting task was looked at. `ids`: of the dispatcher, of what was asked for."""

    characters: int = 0
    tokens: int = 0
    ids: list[int] = field(default_factory=list)
    job: asyncio.Task[None] | None = None
    again: bool = False


class EagerPrefill:
    """Owns the looks at the session's waiting tasks. `home`: which engine has the beginning of a task's prompt."""

    def __init__(
        self, session: Session, tenant: Tenant, host: Host, home: Callable[[Task], int | None]
    ) -> None:
        self._session = session
        self._tenant = tenant
        self._host = host
        self._home = home
        off = host.disabled & {"eager-prefill", "prefix-cache"}
        self._on = not off
        self._streams = self._on and "streamed-prefill" not in host.disabled
        self._looks: dict[Task, _Look] = {}
        self._due: list[SemanticVariable] = []
        self._asked: set[int] = set()  # hashes of ids

    def changed(self, effects: Effects) -> bool:
        """Follows every event that was applied. Whether `look` has something to do, DELAY_S later."""
        if not self._on:
            return False
        for task in effects.ready:
            self._stop(task)
        for id in effects.variables:
            variable = self._session.graph.variables[id]
            if variable.ended and variable.producer is not None and variable.producer in self._looks:
                self._stop(variable.producer)  # it failed before it was ready
            if variable.consumers or (variable.producer is not None and variable.producer.next is not None):
                if variable.state == "ready":
                    self._due.append(variable)
                else:
                    self._variable_changed(variable)
        return bool(self._due)

    def look(self) -> None:
        """At those who still wait for more than the inputs that arrived."""
        due, self._due = self._due, []
        for variable in due:
            self._variable_changed(variable)

    def submitted(self, event: CallsSubmitted) -> None:
        """What waits for a client may begin at once; the rest when what it waits for does."""
        if not self._on:
            return
        calls = self._session.graph.calls
        tasks = (calls[spec.id].tasks[0] for spec in event.calls)
        for task in islice((task for task in tasks if _waits_for_a_client(task)), MAX_CONSUMERS):
            self._look(task)

    def ahead(self, task: Task) -> tuple[int, int] | None:
        """The engine that has the most of its prompt from here, and how many tokens; None: nothing was computed."""
        look = self._looks.get(task)
        return None if look is None else self._host.dispatcher.ahead(look.ids)

    def started(self, task: Task, cached_tokens: int) -> None:
        """It runs, and so much of its prompt was there."""
        if (look := self._looks.pop(task, None)) is not None:
            self._host.dispatcher.warmed(look.ids, cached_tokens)

    def closed(self) -> None:
        for task in list(self._looks):
            self._stop(task)
            self.started(task, 0)
        self._due.clear()
        self._asked.clear()

    def _variable_changed(self, variable: SemanticVariable) -> None:
        if variable.state not in ("running", "ready"):
            return
        producer = variable.producer
        waiting: Iterable[Task] = variable.consumers[:MAX_CONSUMERS]
        if producer is not None and producer.next is not None:
            waiting = [*waiting, producer.next]
        for task in waiting:
            if task.state == "waiting" and self._is_due(task, variable):
                self._look(task)

    def _is_due(self, task: Task, variable: SemanticVariable) -> bool:
        look = self._looks.get(task)
        if look is None or variable.state == "ready":
            return True
        if not self._streams or variable.state != "running":
            return False
        return variable.length >= max(look.characters + MIN_CHARACTERS, look.characters * GROWTH)

    def _look(self, task: Task) -> None:
        look = self._looks.setdefault(task, _Look())
        if look.job is not None:
            look.again = True
            return
        pieces = _known(task, streamed=self._streams)
        growing = max((v.length for v in task.reads if v.state == "running"), default=0)
        look.characters = growing
        size = sum(len(piece.text) for piece in pieces)
        if not pieces or size > self._host.max_model_len * self._host.tokenizer.longest_token:
            return
        if size < LONG_TEXT:
            self._ask(task, look, prefix.settled(pieces, self._host.tokenizer, chat=task.call.spec.chat))
        else:
            look.job = asyncio.create_task(self._look_long(task, look, pieces), name=f"eager {task.id}")

    async def _look_long(self, task: Task, look: _Look, pieces: tuple[Fill | Kept, ...]) -> None:
        """Encoding is done on a thread."""
        try:
            chat = task.call.spec.chat
            ids = await asyncio.to_thread(prefix.settled, pieces, self._host.tokenizer, chat=chat)
        finally:
            look.job = None
        if task.state == "waiting" and self._looks.get(task) is look:
            self._ask(task, look, ids)
            if look.again:
                look.again = False
                self._look(task)

    def _ask(self, task: Task, look: _Look, ids: tuple[int, ...]) -> None:
        if (
            len(ids) < look.tokens + MIN_TOKENS
            or len(ids) > self._host.max_model_len
            or hash(ids) in self._asked
        ):
            return
        public = task.call.spec.share == "public"
        salt = PUBLIC_SALT if public else self._tenant.salt
        begun = self._host.dispatcher.ahead(look.ids)
        home = self._home(task) if begun is None else begun[0]
        number = self._host.dispatcher.warm(self._session.id, ids, (Salt(0, salt),), home)
        if number is not None:
            look.tokens = len(ids)
            look.ids.append(number)
            self._asked.add(hash(ids))

    def _stop(self, task: Task) -> None:
        """What it waited for is there, or will never be. What was computed of it so far stays in the cache."""
        look = self._looks.get(task)
        if look is None:
            return
        if look.job is not None:
            look.job.cancel()
        for number in look.ids:
            self._host.dispatcher.cool(number)
        if task.ended:
            self.started(task, 0)


def _waits_for_a_client(task: Task) -> bool:
    return task.state == "waiting" and all(v.state == "ready" or v.producer is None for v in task.reads)


def _known(task: Task, *, streamed: bool) -> tuple[Fill | Kept, ...]:
    """What all tenants share of a public call is the constant that it begins with: no more is worth the trouble."""
    if task.call.spec.share != "public":
        return task.known_context(streamed=streamed)
    first = task.call.spec.segments[0]
    return (Fill(first.text),) if isinstance(first, Constant) else ()
