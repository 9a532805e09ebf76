"""Semantic variables as a program holds them: constants, and the futures that calls return.

Responsible for: what is known of a value so far, and everybody who waits for it, threads and event loops. A
cell only ever grows: text, then a value or an error, then nothing. Who fills it is `parrot.conversation`.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from parrot.errors import ParrotError
from parrot.wire import Criteria

if TYPE_CHECKING:
    from parrot.session import Session

_NAME = re.compile(r"(?!var_)[A-Za-z0-9_.-]{1,100}")


class Cell:
    """A value on its way. Filled by one thread, awaited by any; `watch` calls back after every change."""

    __slots__ = ("_changed", "_watchers", "error", "text", "value")

    def __init__(self, value: str | None = None) -> None:
        self.value = value
        self.error: ParrotError | None = None
        self.text = value or ""
        self._changed = threading.Condition()
        self._watchers: set[Callable[[], None]] = set()

    @property
    def done(self) -> bool:
        return self.value is not None or self.error is not None

    def extend(self, start: int, delta: str) -> None:
        """Text from position `start`; what is known already is skipped, so two streams may tell the same."""
        with self._changed:
            if not self.done and start <= len(self.text):
                self.text += delta[len(self.text) - start :]
                self._notify()

    def resolve(self, value: str) -> None:
        with self._changed:
            if not self.done:
                if value.startswith(self.text):
                    self.text = value
                self.value = value
                self._notify()

    def fail(self, error: ParrotError) -> None:
        with self._changed:
            if not self.done:
                self.error = error
                self._notify()

    def result(self) -> str:
        """Of a cell that is done."""
        if self.error is not None:
            raise self.error.with_traceback(None)
        assert self.value is not None
        return self.value

    def wait(self, timeout: float | None) -> str:
        with self._changed:
            if not self._changed.wait_for(lambda: self.done, timeout):
                raise TimeoutError(f"no value within {timeout} s")
        return self.result()

    def pieces(self) -> Iterator[str]:
        position = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda start=position: self.done or len(self.text) > start)  # type: ignore[misc]
                piece, done = self.text[position:], self.done
            position += len(piece)
            if piece:
                yield piece
            if done:
                self.result()
                return

    async def settled(self) -> None:
        with self._watched() as changed:
            while not self.done:
                await changed.wait()
                changed.clear()

    async def apieces(self) -> AsyncIterator[str]:
        position = 0
        with self._watched() as changed:
            while True:
                with self._changed:
                    piece, done = self.text[position:], self.done
                position += len(piece)
                if piece:
                    yield piece
                if done:
                    self.result()
                    return
                if not piece:
                    await changed.wait()
                    changed.clear()

    @contextmanager
    def _watched(self) -> Iterator[asyncio.Event]:
        """An event of the running loop that is set after every change."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(changed.set)

        with self._changed:
            self._watchers.add(wake)
        try:
            yield changed
        finally:
            with self._changed:
                self._watchers.discard(wake)

    def _notify(self) -> None:
        self._changed.notify_all()
        for wake in self._watchers:
            wake()


class SemanticVariable:
    """A named text that connects calls.

    Made from a value it is a constant (`str()` of anything that is no text). A semantic function returns one
    that gets its value later; `get` and its kin start the session's calls and wait.
    """

    __slots__ = ("__weakref__", "_name", "asked", "cell", "session")

    def __init__(self, value: object, *, name: str | None = None) -> None:
        if name is not None and not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r}: a variable's name is 1-100 of A-Z a-z 0-9 _ . - and does not start with var_"
            )
        self._fill(Cell(value if isinstance(value, str) else str(value)), name, None)

    @classmethod
    def output(cls, session: Session, name: str) -> SemanticVariable:
        """A future of `session`, which makes these and owns `asked`: None until it was submitted."""
        variable = cls.__new__(cls)
        variable._fill(Cell(), name, session)
        return variable

    def _fill(self, cell: Cell, name: str | None, session: Session | None) -> None:
        self.cell = cell
        self.session = session
        self.asked: set[Criteria] | None = None
        self._name = name

    @property
    def bound_name(self) -> str:
        """Of an output."""
        assert self._name is not None
        return self._name

    @property
    def name(self) -> str | None:
        """An output's name in its session (`code.1`); a constant's is the one it was given."""
        return self._name

    @property
    def done(self) -> bool:
        """Whether `get` returns, or raises, at once."""
        return self.cell.done

    def get(self, perf: Criteria | None = None, *, timeout: float | None = None) -> str:
        """The value; starts everything that the session has collected.

        `perf` says what it is wanted for (absent: latency). Raises VariableFailed, what the server answered
        (ApiError), ConnectionError, and TimeoutError after `timeout` seconds (the work goes on).
        """
        self._demand(perf)
        return self.cell.wait(timeout)

    async def aget(self, perf: Criteria | None = None) -> str:
        """As `get`, without blocking the event loop. Cancelling it leaves the work running."""
        self._demand(perf)
        await self.cell.settled()
        return self.cell.result()

    def stream(self, perf: Criteria | None = None) -> Iterator[str]:
        """The text as it is generated, from its beginning. Transformed values come in one piece."""
        self._demand(perf)
        return self.cell.pieces()

    def astream(self, perf: Criteria | None = None) -> AsyncIterator[str]:
        self._demand(perf)
        return self.cell.apieces()

    def _demand(self, perf: Criteria | None) -> None:
        if self.session is not None and not self.cell.done:
            self.session.demand(self, perf)

    def __repr__(self) -> str:
        if self.cell.error is not None:
            state = "failed"
        elif self.cell.value is not None:
            state = repr(self.cell.value if len(self.cell.value) <= 40 else self.cell.value[:37] + "...")
        else:
            state = "no value yet"
        return f"<SemanticVariable {self._name or '(constant)'}: {state}>"
