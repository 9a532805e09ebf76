"""Which applications must go on now, or all the work would end later than it has to.

    critical    the calls that an application still has to run one after another take as long as all the work takes
                on all slots: everything else finds room beside it, but it finds none at the end

Without this, in any order that finishes some applications first, the last ones run alone on mostly empty slots.
While applications keep coming there is always something to fill slots with, so that nobody is critical before
nothing new has come for as long as that takes.

Responsible for: the work of each application as its tasks tell it, in steps of one sequence, and who is critical,
which lasts until somebody new comes. Pure. Leaves what that means to AppScheduler. Source: the bound of
R. McNaughton, "Scheduling with Deadlines and Loss Functions" (1959), and the critical-path rule that keeps to it,
R. R. Muntz and E. G. Coffman (1969).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from server.scheduler.entry import own_steps
from server.scheduler.events import TaskSpec

BETWEEN_S = 1.0
"""How long what an application has left counts when none of its tasks is there: its next one comes at once, or it
waits for somebody else."""

HANDOVER = 1.05
"""What runs one after another takes so many times its work: each call comes a step after the one before."""


@dataclass(slots=True)
class _Work:
    """`left`: of all its calls; `path`: of those that can only run one after another, 0 for a single one, which is
    never in such a hurry that a stream would be paused for it. `tasks` have not ended."""

    left: int = 0
    path: int = 0
    tasks: set[int] = field(default_factory=set)


class CriticalPath:
    """Owns the work of every application that has a task, or had one a moment ago."""

    def __init__(self) -> None:
        self._apps: dict[str, _Work] = {}
        self._between: OrderedDict[str, float] = OrderedDict()  # without a task, and since when
        self._paths: list[tuple[int, str]] = []  # of those that are not critical
        self._critical: set[str] = set()
        self._total = 0
        self._last_arrival = 0.0

    def __len__(self) -> int:
        return len(self._apps)

    def is_critical(self, app: str) -> bool:
        return app in self._critical

    def ready(self, spec: TaskSpec, now: float) -> None:
        work = self._apps.get(spec.app)
        if work is None:
            work = self._apps[spec.app] = _Work()
            self._last_arrival = now
            self._calm_down()
        self._between.pop(spec.app, None)
        work.tasks.add(spec.task_id)
        own, following = own_steps(spec), spec.following_steps
        left = max(own + following, spec.remaining_steps or 0)
        self._change(spec.app, work, left, own + following if following else 0)

    def ended(self, spec: TaskSpec, now: float) -> None:
        work = self._apps[spec.app]
        work.tasks.remove(spec.task_id)
        left = max(0, work.left - own_steps(spec))
        self._change(spec.app, work, left, min(work.path, left))
        if not work.tasks:
            self._between[spec.app] = now
        while now - next(iter(self._between.values()), now) > BETWEEN_S:
            self._forget(self._between.popitem(last=False)[0])

    def find(self, slots: float, step_ms: float, now: float) -> Iterator[int]:
        """The tasks of applications that have become critical."""
        quiet_steps = (now - self._last_arrival) * 1000 / step_ms
        while self._paths:
            path, app = self._paths[-1]
            if path * HANDOVER * slots < self._total or path > quiet_steps:
                return
            self._paths.pop()
            self._critical.add(app)
            yield from sorted(self._apps[app].tasks)

    def _calm_down(self) -> None:
        calm, self._critical = self._critical, set()
        for app in calm:
            self._list(app, self._apps[app])

    def _change(self, app: str, work: _Work, left: int, path: int) -> None:
        self._unlist(app, work)
        self._total += left - work.left
        work.left, work.path = left, path
        self._list(app, work)

    def _list(self, app: str, work: _Work) -> None:
        if work.path and app not in self._critical:
            insort(self._paths, (work.path, app))

    def _unlist(self, app: str, work: _Work) -> None:
        if work.path and app not in self._critical:
            del self._paths[bisect_left(self._paths, (work.path, app))]

    def _forget(self, app: str) -> None:
        work = self._apps.pop(app)
        self._unlist(app, work)
        self._critical.discard(app)
        self._total -= work.left

    def check_invariants(self, tasks: dict[int, str]) -> None:
        """`tasks` that have not ended, and their applications."""
        assert {id: app for app, work in self._apps.items() for id in work.tasks} == tasks
        assert self._between.keys() == {app for app, work in self._apps.items() if not work.tasks}
        assert self._critical <= self._apps.keys()
        assert self._total == sum(work.left for work in self._apps.values())
        listed = (
            (work.path, app) for app, work in self._apps.items() if work.path and app not in self._critical
        )
        assert self._paths == sorted(listed)
