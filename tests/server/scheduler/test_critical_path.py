"""Who has to go on now for all the work to end as early as it can."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.types import Key
from server.scheduler.calibration import StepModel
from server.scheduler.critical_path import BETWEEN_S, CriticalPath
from server.scheduler.events import (
    Action,
    Dispatch,
    Reprioritise,
    TaskFinished,
    TaskReady,
    TaskSpec,
    TaskStarted,
)
from tests.server.scheduler.scheduling import Scheduler, spec

SLOTS, STEP_MS, OUTPUT = 4, 10.0, 16


def call(task_id: int, app: str, remaining: int, output: int = 10) -> TaskSpec:
    """Of a chain, with a prompt that takes no time."""
    return spec(
        task_id,
        app,
        order=task_id,
        tokens=1,
        output=output,
        remaining=remaining,
        following=remaining - output,
    )


def found(work: CriticalPath, now: float) -> list[int]:
    return list(work.find(2, STEP_MS, now))


def test_who_has_as_much_to_do_as_all_others_leave_time_for_is_critical() -> None:
    work = CriticalPath()
    work.ready(call(1, "long", 100), 0.0)
    work.ready(call(2, "a", 60), 0.0)
    work.ready(call(3, "b", 60), 0.0)
    assert found(work, 10.0) == []  # 110 steps on each slot: the long one need not begin yet
    work.ended(call(2, "a", 10), 10.0)
    assert found(work, 10.0) == [1]
    assert found(work, 10.0) == []
    assert work.is_critical("long")
    assert not work.is_critical("a")


def test_nobody_is_critical_while_applications_keep_coming() -> None:
    work = CriticalPath()
    work.ready(call(1, "long", 100), 0.0)
    work.ready(call(2, "short", 10), 9.5)
    assert found(work, 10.4) == []
    assert found(work, 10.5) == [1]
    work.ready(call(3, "new", 10), 10.5)
    assert not work.is_critical("long")


def test_an_application_whose_next_call_does_not_come_is_no_work() -> None:
    work = CriticalPath()
    for number, app in enumerate("abc"):
        work.ready(call(number, app, 100), 0.0)
    work.ended(call(0, "a", 100), 10.0)
    assert found(work, 10.0) == []
    work.ended(call(1, "b", 100), 10.0 + 2 * BETWEEN_S)
    assert found(work, 10.0 + 2 * BETWEEN_S) == [2]


def test_the_calls_of_a_critical_application_go_first_and_those_that_wait_are_told() -> None:
    scheduler = Scheduler(10_000, max_num_seqs=2, calibration=StepModel(10.0, 0.0, 0.0))
    for number, app in enumerate(("a", "b", "long")):
        scheduler.ready(call(number, app, 300 if app == "long" else 100))
    scheduler.now = 10.0
    for number in (0, 1):
        scheduler(TaskFinished(number))
    told = scheduler(TaskReady(call(3, "a", 10)))
    assert [action.key[1:3] for action in told if isinstance(action, Reprioritise)] == [(0, 0)]
    next_one = scheduler.ready(call(4, "long", 290))
    assert next_one.key[1:3] == (0, 0)


def last_and_mean(chains: list[int], disabled: str = "") -> tuple[int, float]:
    """Steps, when chains of so many calls come together and the first in the order have the slots; a call's
    successor comes a step after its end."""
    scheduler = Scheduler(
        10**6, disabled=disabled, max_num_seqs=SLOTS, calibration=StepModel(STEP_MS, 0.0, 0.0)
    )
    keys: dict[int, Key] = {}
    ready, tasks, ends = {0: list(enumerate(chains))}, dict[int, list[int]](), list[int]()
    for step in count():
        scheduler.now = step * STEP_MS / 1000
        for app, calls in ready.pop(step, []):
            task = len(tasks)
            tasks[task] = [app, calls, OUTPUT]
            note(keys, scheduler(TaskReady(call(task, f"app{app}", calls * OUTPUT, OUTPUT))))
        for task in sorted(keys, key=keys.__getitem__)[:SLOTS]:
            app, calls, left = tasks[task]
            tasks[task][2] -= 1
            if left == OUTPUT:
                note(keys, scheduler(TaskStarted(task)))
            if left == 1:
                del keys[task]
                scheduler(TaskFinished(task))
                (
                    ready.setdefault(step + 2, []).append((app, calls - 1))
                    if calls > 1
                    else ends.append(step + 1)
                )
        if len(ends) == len(chains):
            return ends[-1], sum(ends) / len(ends)
    raise AssertionError


def note(keys: dict[int, Key], actions: list[Action]) -> None:
    for action in actions:
        if isinstance(action, Dispatch | Reprioritise):
            keys[action.task_id] = action.key


@pytest.mark.parametrize("chains", [[12] * 13, [5, 9, 12, 12, 20, 7, 12, 16, 12, 12, 3, 12] * 2])
def test_the_last_chains_of_many_end_together_and_the_mean_hardly_suffers(chains: list[int]) -> None:
    last, mean = last_and_mean(chains)
    last_without, mean_without = last_and_mean(chains, "critical-path")
    assert last <= 1.02 * sum(chains) * OUTPUT / SLOTS < 1.06 * sum(chains) * OUTPUT / SLOTS <= last_without
    assert mean <= 1.01 * mean_without


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 99), st.sampled_from([0.1, 3.0])), max_size=40))
def test_work_that_has_ended_is_gone_whatever_happened(history: list[tuple[int, int, float]]) -> None:
    work, now, live = CriticalPath(), 0.0, dict[int, TaskSpec]()
    for number, (app, steps, wait_s) in enumerate(history):
        now += wait_s
        if app in live:
            work.ended(live.pop(app), now)
        else:
            live[app] = call(number, f"app{app}", steps + 1, 1)
            work.ready(live[app], now)
        assert set(found(work, now)) <= {each.task_id for each in live.values()}
        work.check_invariants({each.task_id: each.app for each in live.values()})
    now += 2 * BETWEEN_S
    last = call(1000, "last", 1, 1)
    work.ready(last, now)
    for each in [*live.values(), last]:
        work.ended(each, now)
    assert len(work) <= len(live) + 1
