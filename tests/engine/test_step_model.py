"""The model finds what steps cost, and is not led astray by a few that cost something else."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.step_model import ENOUGH, Load, StepModel

Coefficients = tuple[float, float, float, float]

MACHINES: list[Coefficients] = [
    (1.0, 0.02, 0.0, 0.01),
    (6.0, 0.25, 0.0008, 0.06),
    (0.4, 0.05, 0.0003, 0.2),
    (3.7, 0.01, 0.00002, 0.01),
]


def cost(load: Load, machine: Coefficients) -> float:
    a, b, c, p = machine
    return a + b * load.sequences + c * load.kv_tokens + p * load.prefill_tokens


def traffic(rng: random.Random, steps: int) -> list[Load]:
    """Sequences come and go, a quarter of the steps prefills."""
    contexts, count, loads = [rng.randrange(64, 1024) for _ in range(24)], 4, []
    for step in range(steps):
        count = rng.randrange(1, 24) if rng.random() < 0.15 else count
        prefill = rng.choice([0, 0, 0, rng.randrange(1, 512)])
        loads.append(Load(count + (prefill > 0), sum(contexts[:count]) + prefill + step, prefill))
    return loads


@pytest.mark.parametrize("machine", MACHINES)
def test_after_some_steps_it_predicts_within_a_few_percent_of_noisy_ones(machine: Coefficients) -> None:
    rng, model = random.Random(1), StepModel()
    loads = traffic(rng, 300)
    for load in loads[:200]:
        model.observe(load, cost(load, machine) * rng.lognormvariate(0, 0.08))
    errors = sorted(abs(model.predict(load) / cost(load, machine) - 1) for load in loads[200:])
    assert errors[-1] < 0.1
    assert errors[len(errors) // 2] < 0.05


def test_steps_that_something_else_delayed_hardly_count() -> None:
    rng, model = random.Random(2), StepModel()
    loads = traffic(rng, 300)
    for number, load in enumerate(loads):
        delayed = number == 0 or rng.random() < 0.05
        model.observe(load, cost(load, MACHINES[1]) * (30 if delayed else 1))
    assert all(model.predict(load) / cost(load, MACHINES[1]) == pytest.approx(1, abs=0.05) for load in loads)


def test_a_change_that_lasts_is_learnt_in_a_few_steps() -> None:
    rng, model = random.Random(3), StepModel()
    for load in traffic(rng, 300):
        model.observe(load, cost(load, MACHINES[1]))
    for load in traffic(rng, 30):
        model.observe(load, 5 * cost(load, MACHINES[1]))
    for load in traffic(rng, 10):
        assert model.predict(load) / cost(load, MACHINES[1]) == pytest.approx(5, rel=0.2)


def test_what_prefill_costs_is_remembered_over_a_long_time_of_decoding() -> None:
    rng, model = random.Random(4), StepModel()
    for load in traffic(rng, 200):
        model.observe(load, cost(load, MACHINES[1]))
    before = model.per_prefill_token_ms
    for step in range(5000):
        load = Load(8, 4000 + 8 * step % 3000, 0)
        model.observe(load, cost(load, MACHINES[1]))
    assert model.per_prefill_token_ms == pytest.approx(before, rel=0.01)


def test_one_measured_step_sets_the_scale() -> None:
    model = StepModel()
    model.observe(Load(1, 512, 512), 200.0)
    assert model.predict(Load(1, 512, 512)) == pytest.approx(200.0, rel=0.01)
    assert model.predict(Load(1, 513, 0)) < 100.0


loads = st.builds(Load, st.integers(1, 256), st.integers(1, 10**6), st.integers(0, 8192))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(loads, st.floats(0.0, 1e5)), max_size=60), loads)
def test_whatever_was_measured_more_work_never_takes_less_time(
    steps: list[tuple[Load, float]], load: Load
) -> None:
    model = StepModel()
    for seen, step_ms in steps:
        model.observe(seen, step_ms)
    more = Load(load.sequences + 1, load.kv_tokens + 100, load.prefill_tokens + 10)
    assert 0.0 <= model.predict(load) <= model.predict(more) < 1e12


def test_what_was_learnt_is_told_once_there_is_enough_and_again_when_it_has_changed() -> None:
    model = StepModel()
    load = Load(4, 400, 0)
    told = []
    for step in range(400):
        model.observe(load, 10.0 if step < 200 else 25.0)
        if (news := model.news()) is not None:
            told.append((step, news))
    assert told[0][0] == ENOUGH - 1
    a, b, c = told[0][1]
    assert a + 4 * b + 400 * c == pytest.approx(10.0, rel=0.05)
    assert 200 < told[1][0] < 300, "nothing is told while nothing changes"
    a, b, c = told[-1][1]
    assert a + 4 * b + 400 * c == pytest.approx(model.predict(load), rel=0.25), "what was told is not old"
    assert len(told) <= 5
