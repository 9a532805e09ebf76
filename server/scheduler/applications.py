"""Applications in the order in which they began or arrived, and where their last task went.

Responsible for: an application's place, which it keeps between two tasks; of those that have none, the ones that
were idle longest are forgotten.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

MAX_IDLE = 10_000

WAITING = 2**40
"""Added to the place of an application of which nothing has run: after all that have begun."""


@dataclass(slots=True)
class App:
    """`place`: the order in which they have begun, and after those the one in which they arrived; `arrived` is the
    time. `slack_s`: of its first task. `engine_id`: where its last task went."""

    place: int
    arrived: float
    num_tasks: int = 0
    slack_s: float | None = None
    engine_id: int | None = None

    @property
    def has_begun(self) -> bool:
        return self.place < WAITING


@dataclass(slots=True)
class Applications:
    """Owns the applications by name."""

    _apps: dict[str, App] = field(default_factory=dict)
    _idle: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _arrivals: int = 0
    _begun: int = 0

    def __getitem__(self, name: str) -> App:
        return self._apps[name]

    def last_engine(self, name: str) -> int | None:
        app = self._apps.get(name)
        return None if app is None else app.engine_id

    def enter(self, name: str, now: float) -> App:
        """One more task of it."""
        app = self._apps.get(name)
        if app is None:
            self._arrivals += 1
            app = self._apps[name] = App(WAITING + self._arrivals, now)
        self._idle.pop(name, None)
        app.num_tasks += 1
        return app

    def begin(self, name: str) -> None:
        """A task of it has started; the first one counts."""
        app = self._apps[name]
        if not app.has_begun:
            self._begun += 1
            app.place = self._begun

    def leave(self, name: str) -> None:
        app = self._apps[name]
        app.num_tasks -= 1
        if not app.num_tasks:
            self._idle[name] = None
            if len(self._idle) > MAX_IDLE:
                del self._apps[self._idle.popitem(last=False)[0]]

    def check_invariants(self, names: Iterable[str]) -> None:
        """`names`: of each task that has not ended."""
        counts = Counter(names)
        assert counts == Counter({name: app.num_tasks for name, app in self._apps.items() if app.num_tasks})
        assert self._idle.keys() == {name for name, app in self._apps.items() if not app.num_tasks}
