"""A program as the client sees it: calls are collected, and go to the server when somebody wants a value.

Responsible for: which calls can go now, which of their outputs to ask for, and running native functions. A
call is held back only while an input comes from a native function that has not ended. What was collected
until a flush goes as one program; what comes later goes to the same session of the server, under names that
are never used twice. Any thread may call in; `_lock` guards everything but the conversation.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context, ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

from parrot import wire
from parrot.conversation import Batch, Conversation, Node
from parrot.errors import ParrotError, SessionClosed, VariableFailed
from parrot.PerformanceCriteria import LATENCY, THROUGHPUT
from parrot.transport import Endpoint, background
from parrot.variable import SemanticVariable

DEFAULT_BASE_URL = "http://127.0.0.1:8000"
CLOSE_TIMEOUT_S = 5.0


@dataclass(slots=True, eq=False)
class NativeNode:
    """A function of the client's, to be run with the values of `inputs`."""

    run: Callable[[Mapping[SemanticVariable, str]], str]
    inputs: tuple[SemanticVariable, ...]
    output: SemanticVariable
    context: Context


class Session:
    """Where calls go. `with P.Session(...):` makes it the current one, and ends it with all that still runs.

    `base_url` and `api_key` default to PARROT_BASE_URL and PARROT_API_KEY, `model` to the server's.
    """

    def __init__(
        self, base_url: str | None = None, api_key: str | None = None, *, model: str | None = None
    ) -> None:
        url = base_url or os.environ.get("PARROT_BASE_URL") or DEFAULT_BASE_URL
        endpoint = Endpoint(url.rstrip("/"), api_key or os.environ.get("PARROT_API_KEY") or None)
        self._conversation = Conversation(endpoint, model)
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._closed = False
        self._entered = 0
        self._counters: dict[str, int] = {}
        self._constants: WeakKeyDictionary[SemanticVariable, str] = WeakKeyDictionary()
        self._calls: list[Node] = []
        self._natives: list[NativeNode] = []
        self._wanted: dict[str, wire.Criteria] = {}
        self._running: set[Future[None]] = set()

    @property
    def id(self) -> str | None:
        """The server's id of this session, once the first exchange has begun."""
        return self._conversation.id

    @property
    def closed(self) -> bool:
        """Also true in a forked child: the program goes on in the parent."""
        return self._closed or self._pid != os.getpid()

    def __enter__(self) -> Session:
        with self._lock:
            self._check_open()
            self._entered += 1
        _entered.set((*_entered.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._leave():
            self.close()

    async def __aenter__(self) -> Session:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._leave():
            await self.aclose()

    def close(self) -> None:
        """Cancels what runs, here and at the server; variables without a value fail. Twice is once."""
        if ended := self._end():
            with suppress(ParrotError, TimeoutError):
                ended.result(CLOSE_TIMEOUT_S)

    async def aclose(self) -> None:
        if ended := self._end():
            with suppress(ParrotError, TimeoutError):
                await asyncio.wait_for(asyncio.wrap_future(ended), CLOSE_TIMEOUT_S)

    def flush(self, perf: wire.Criteria | None = None) -> None:
        """Sends all that was collected, asks for it with criterion `perf`, and does not wait."""
        with self._lock:
            self._check_open()
            self._flush(perf or LATENCY)

    def name_of(self, variable: SemanticVariable, hint: str) -> str:
        """The variable's name in this session. Raises ParrotError for another session's unfinished output."""
        if variable.session is self:
            return variable.bound_name
        if not variable.done:
            raise ParrotError(f"{variable!r} belongs to another session and has no value yet: get() it first")
        with self._lock:
            if variable not in self._constants:
                variable.cell.result()
                self._constants[variable] = self._fresh(variable.name or hint)
            return self._constants[variable]

    def new_output(self, hint: str) -> SemanticVariable:
        """A variable of this session under a name of its own: `code.1`, `code.2`."""
        with self._lock:
            self._check_open()
            variable = SemanticVariable.output(self, self._fresh(hint))
            self._conversation.expect(variable)
            return variable

    def collect(self, node: Node | NativeNode) -> None:
        with self._lock:
            self._check_open()
            if isinstance(node, Node):
                self._calls.append(node)
            else:
                self._natives.append(node)

    def demand(self, variable: SemanticVariable, perf: wire.Criteria | None) -> None:
        """Sees to it that an output of this session gets its value, and that the server knows for what."""
        criterion = perf or LATENCY
        with self._lock:
            if variable.done:
                return
            self._check_open()
            if variable.asked is None:
                self._wanted[variable.bound_name] = criterion
                self._flush(criterion)
            else:
                self._ask(variable, criterion)

    def _leave(self) -> bool:
        """Whether nobody is left in it: several threads may be in one `with` each."""
        _entered.set(_entered.get()[:-1])
        with self._lock:
            self._entered -= 1
            return self._entered == 0

    def _check_open(self) -> None:
        if self.closed:
            raise SessionClosed("the session is closed")

    def _fresh(self, hint: str) -> str:
        self._counters[hint] = count = self._counters.get(hint, 0) + 1
        return f"{hint}.{count}"

    def _flush(self, criterion: wire.Criteria) -> None:
        """The values that native functions need are asked for like those that somebody waits for."""
        natives, self._natives = self._natives, []
        needed = [variable for native in natives for variable in native.inputs if variable.session is self]
        for variable in needed:
            if variable.asked is None and not variable.done:
                self._wanted.setdefault(variable.bound_name, criterion)
        self._submit(criterion)
        for variable in needed:
            if variable.asked is not None:
                self._ask(variable, criterion)
        for native in natives:
            self._start(self._run_native(native, criterion))

    def _submit(self, criterion: wire.Criteria) -> None:
        """Sends calls whose inputs have values or come from calls that the server knows; holds the others."""
        batch, held = Batch(), []
        for node in self._calls:
            inputs = node.inputs.values()
            if not all(variable.done or variable.asked is not None for variable in inputs):
                held.append(node)
            elif failed := next((variable for variable in inputs if variable.cell.error), None):
                self._fail(node, failed)
            else:
                batch.nodes.append(node)
                for variable in node.outputs.values():
                    variable.asked = set()
        self._calls = held
        if batch.nodes:
            self._choose(batch, criterion)
            self._start(self._conversation.run(batch))

    def _choose(self, batch: Batch, criterion: wire.Criteria) -> None:
        """Asks for the outputs that nothing of the batch consumes, and for those that are waited for."""
        consumed = batch.inputs
        for name, variable in batch.outputs.items():
            wanted = self._wanted.pop(name, None)
            if wanted is not None or name not in consumed:
                batch.asked[name] = wanted or criterion
                variable.asked = {wanted or criterion}

    def _ask(self, variable: SemanticVariable, criterion: wire.Criteria) -> None:
        """An exchange of its own for what was not asked for before, or not so strictly."""
        asked = variable.asked or set()
        if not variable.done and criterion not in asked and not (asked and criterion == THROUGHPUT):
            variable.asked = asked | {criterion}
            self._start(self._conversation.follow(variable.bound_name, criterion))

    def _fail(self, node: Node, failed: SemanticVariable) -> None:
        for name in node.outputs:
            self._wanted.pop(name, None)
            self._conversation.fail(name, _dependency_failed(name, failed))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = background().start(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _end(self) -> Future[None] | None:
        with self._lock:
            if self.closed:
                return None
            self._closed = True
            self._calls, self._natives = [], []
            running, unsettled = list(self._running), self._conversation.unsettled()
        for task in running:
            task.cancel()
        for variable in unsettled:
            self._conversation.fail(
                variable.bound_name, SessionClosed(f"{variable!r}: its session was closed")
            )
        return background().start(self._conversation.delete()) if self.id is not None else None

    async def _run_native(self, native: NativeNode, criterion: wire.Criteria) -> None:
        name = native.output.bound_name
        try:
            for variable in native.inputs:
                await variable.cell.settled()
            if failed := next((variable for variable in native.inputs if variable.cell.error), None):
                raise _dependency_failed(name, failed)
            values = {variable: variable.cell.result() for variable in native.inputs}
            self._conversation.resolve(name, await _in_thread(native.context, native.run, values))
        except ParrotError as error:
            self._conversation.fail(name, error)
        except Exception as error:
            failure = VariableFailed(name, f"{type(error).__name__}: {error}", "native_function_failed")
            failure.__cause__ = error
            self._conversation.fail(name, failure)
        with self._lock:
            self._wanted.pop(name, None)
            if not self.closed:
                self._submit(criterion)


_entered: ContextVar[tuple[Session, ...]] = ContextVar("parrot_entered", default=())
_default: ContextVar[Session | None] = ContextVar("parrot_default", default=None)


def current_session() -> Session:
    """The innermost `with P.Session()`; without one, a session of this context's (thread's or task's) own."""
    if entered := _entered.get():
        return entered[-1]
    session = _default.get()
    if session is None or session.closed:
        session = Session()
        _default.set(session)
    return session


def flush(perf: wire.Criteria | None = None) -> None:
    """`current_session().flush(perf)`."""
    current_session().flush(perf)


def _dependency_failed(name: str, failed: SemanticVariable) -> VariableFailed:
    error, culprit = failed.cell.error, failed.name or "(constant)"
    if isinstance(error, VariableFailed):
        causes = [wire.Cause(variable=culprit, message=error.message), *error.causes]
    else:
        causes = [wire.Cause(variable=culprit, message=str(error))]
    result = VariableFailed(name, f"its input {culprit} failed", "dependency_failed", causes)
    result.__cause__ = error
    return result


async def _in_thread(
    context: Context,
    run: Callable[[Mapping[SemanticVariable, str]], str],
    values: Mapping[SemanticVariable, str],
) -> str:
    """On a thread of its own: native functions may wait for each other, which a bounded pool must not."""
    done: Future[str] = Future()

    def work() -> None:
        try:
            done.set_result(context.run(run, values))
        except BaseException as error:
            done.set_exception(error)

    done.set_running_or_notify_cancel()
    threading.Thread(target=work, name="parrot-native", daemon=True).start()
    return await asyncio.wrap_future(done)
