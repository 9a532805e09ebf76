"""The threads that help with a step (`ops.compiled.crew`): asleep between steps, woken at the start of each."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Helpers:
    """count threads, numbered from 1, which call `work(number)` once each time they are woken. End with `close`."""

    def __init__(self, count: int, work: Callable[[int], None]) -> None:
        self._closed = False
        self._asleep = [threading.Lock() for _ in range(count)]
        for number, lock in enumerate(self._asleep, 1):
            lock.acquire()
            threading.Thread(target=self._run, args=(lock, number, work), daemon=True).start()

    def wake(self, count: int) -> None:
        """Wake the first `count` of those that sleep."""
        for lock in self._asleep[:count]:
            if lock.locked():
                lock.release()

    def close(self) -> None:
        """They end once they are done."""
        self._closed = True
        self.wake(len(self._asleep))

    def _run(self, lock: threading.Lock, number: int, work: Callable[[int], None]) -> None:
        while True:
            lock.acquire()
            if self._closed:
                return
            work(number)
