"""What happened to each task and why: the one door for whoever asks where a task is.

Responsible for: the stories of the tasks that live, and of the last ones that have ended.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from server.scheduler.entry import Entry

MAX_ENDED = 1000
_PLACED = " placed on engine "


class Stories:
    """Owns the stories of the tasks that have ended; `live` are AppScheduler's."""

    def __init__(self, live: Mapping[int, Entry]) -> None:
        self._live = live
        self._ended: OrderedDict[int, tuple[str, ...]] = OrderedDict()

    def of(self, task_id: int) -> tuple[str, ...]:
        """Empty of one that nobody remembers."""
        entry = self._live.get(task_id)
        return tuple(entry.story) if entry is not None else self._ended.get(task_id, ())

    def why(self, task_id: int) -> str | None:
        """Why it went where it was placed last; None: nowhere, or long ago."""
        placed = (line for line in reversed(self.of(task_id)) if _PLACED in line)
        return next((line.split(": ", 1)[1] for line in placed), None)

    def end(self, entry: Entry) -> None:
        self._ended[entry.id] = tuple(entry.story)
        if len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)
