"""An asyncio event loop on a clock of its own: what waits for time to pass, passes.

    work in callbacks       takes the time that it takes: the loop is one core
    nothing to do           the clock jumps to the next timer
    `clock.stopped()`       the clock stands still: for work that somebody else's clock accounts for

Responsible for: the clock, and that nothing waits in reality. There are no sockets and no threads: what would run
in an executor runs at once.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Clock:
    """Seconds that have passed while it was running, and jumps. It stands still until it is `running`."""

    def __init__(self) -> None:
        self._at = 0.0
        self._since: float | None = None  # on the real clock; None: it stands still

    def now(self) -> float:
        return self._at if self._since is None else self._at + time.perf_counter() - self._since

    def jump(self, seconds: float) -> None:
        self._at += seconds

    @contextmanager
    def running(self) -> Iterator[None]:
        self._since = time.perf_counter()
        try:
            yield
        finally:
            self._at, self._since = self.now(), None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        was_running = self._since is not None
        self._at, self._since = self.now(), None
        try:
            yield
        finally:
            self._since = time.perf_counter() if was_running else None


class _NoSelector(selectors.SelectSelector):
    """Waits for nothing: jumps."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Raises RuntimeError when nothing can ever happen again."""
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing is left to happen")
        if timeout > 0:
            self._clock.jump(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """To be run while its `clock` is running; while it stands still, callbacks take no time."""

    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__(_NoSelector(self.clock))

    def time(self) -> float:
        return self.clock.now()

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future
