"""An AppScheduler whose invariants are checked after every event, and short ways to say what happens to it."""

from __future__ import annotations

from collections.abc import Iterator

from engine.types import Objective, Urgency
from server.scheduler.app_scheduler import AppScheduler
from server.scheduler.calibration import Calibration
from server.scheduler.events import Action, Dispatch, EngineUp, Event, Resume, TaskReady, TaskSpec

URGENT, PATIENT = Objective(Urgency.LATENCY), Objective(Urgency.THROUGHPUT)

Prefixes = tuple[tuple[bytes, int], ...]


def spec(
    task_id: int,
    app: str = "a",
    *,
    order: int = 0,
    objective: Objective = URGENT,
    tokens: int = 100,
    output: int = 10,
    prefixes: Prefixes = (),
    group: str | None = None,
    group_size: int = 1,
    remaining: int | None = 0,
    following: int = 0,
    age_s: float = 0.0,
    ahead: tuple[int, int] | None = None,
) -> TaskSpec:
    """With nothing known of what its application has left to do, unless `remaining` (steps) says so."""
    return TaskSpec(
        task_id=task_id,
        app=app,
        order=order,
        objective=objective,
        num_tokens=tokens,
        max_tokens=output,
        group=group,
        group_size=group_size,
        remaining_steps=remaining,
        following_steps=following,
        age_s=age_s,
        ahead=ahead,
        prefix_hashes=tuple(prefix for prefix, _ in prefixes),
        prefix_tokens=tuple(count for _, count in prefixes),
    )


class Scheduler:
    """`now` is the time of the events, changed by tests."""

    def __init__(
        self,
        *capacities: int,
        disabled: str = "",
        hold_tokens: int = 0,
        latency_limit_ms: float | None = None,
        calibration: Calibration | None = None,
        max_num_seqs: int | None = None,
    ) -> None:
        self.now = 0.0
        self.pure = AppScheduler(
            disabled=frozenset(disabled.split()), hold_tokens=hold_tokens, latency_limit_ms=latency_limit_ms
        )
        for engine, capacity in enumerate(capacities):
            assert self(EngineUp(engine, capacity, max_num_seqs, calibration)) == []

    def __call__(self, event: Event) -> list[Action]:
        actions = self.pure.handle(event, self.now)
        self.pure.check_invariants()
        return actions

    def resumed(self) -> Iterator[list[Action]]:
        """What follows for as long as there is more to do."""
        while self.pure.has_more:
            yield self(Resume())

    def ready(self, spec: TaskSpec) -> Dispatch:
        (action,) = self(TaskReady(spec))
        assert isinstance(action, Dispatch)
        return action

    def engine_of(self, spec: TaskSpec) -> int:
        return self.ready(spec).engine_id

    def queue(self, *specs: TaskSpec) -> None:
        """They get ready, and have to wait."""
        for spec in specs:
            assert self(TaskReady(spec)) == []

    def why(self, task_id: int) -> str:
        """The last thing that was decided about it."""
        return self.pure.story(task_id)[-1]


def places(actions: list[Action]) -> list[tuple[int, int]]:
    """(task, engine) of actions that all dispatch."""
    assert all(isinstance(action, Dispatch) for action in actions)
    return [(action.task_id, action.engine_id) for action in actions]
