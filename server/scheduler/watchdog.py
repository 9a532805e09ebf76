"""Notices that an engine has work and ends no step.

Responsible for: one timer of one engine, armed while there is work. A report costs one attribute: the timer looks
at it when it fires. Leaves to others: what is done about it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

SECOND_LOOK_S = 0.1
"""After a stall of the loop: what the engine has said meanwhile is read between the two looks."""


class Watchdog:
    """Owns the timer and the time of the last sign of life."""

    __slots__ = ("_bark", "_has_work", "_last", "_loop", "_timeout", "_timer")

    def __init__(self, timeout_s: float, has_work: Callable[[], bool], bark: Callable[[float], None]) -> None:
        """`bark` is called once, with the seconds since the last sign of life."""
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout_s
        self._has_work = has_work
        self._bark = bark
        self._last = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def work_given(self) -> None:
        """It begins to count unless it does already."""
        if self._timer is None:
            self._last = self._loop.time()
            self._timer = self._loop.call_later(self._timeout, self._look)

    def fed(self) -> None:
        self._last = self._loop.time()

    @property
    def silent_s(self) -> float:
        """Seconds without a sign of life although there is work."""
        return self._loop.time() - self._last if self._timer is not None and self._has_work() else 0.0

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, again: bool = True) -> None:
        self._timer = None
        if not self._has_work():
            return
        silent = self._loop.time() - self._last
        if silent < self._timeout:
            self._timer = self._loop.call_at(self._last + self._timeout, self._look)
        elif again:
            self._timer = self._loop.call_later(SECOND_LOOK_S, self._look, False)
        else:
            self._bark(silent)
