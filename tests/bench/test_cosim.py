from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.apps import App, Ref, Step, check_same
from bench.bounds import Constants
from bench.compare import Run
from bench.cosim import VirtualComparison, World
from bench.modes import OURS, RADIX

FLAGS = ("--engine", "sim", "--engines", "3", "--sim-step-ms", "0.2")


def _chain(name: str) -> App:
    first = Step("first", (f"{name} begins",), 4)
    second = Step("second", (Ref("first"), " and goes on"), 4)
    return App((first, second), ("second",))


def _chat(name: str) -> App:
    return App((Step("answer", (f"Hello, {name}.",), 8),), ("answer",), tpot_ms=50.0)


@pytest.fixture(scope="module")
def comparison() -> Iterator[VirtualComparison]:
    with VirtualComparison([OURS, RADIX], FLAGS) as comparison:
        yield comparison


def test_programs_and_requests_end_in_the_same_texts_on_virtual_engines(
    comparison: VirtualComparison,
) -> None:
    times = comparison.run([Run([_chain("one"), _chain("two"), _chat("you")])])
    assert [len(run) for run in times["ours"].by_run] == [3]
    assert times["ours"].token_ms[0][:2] == [None, None]
    assert times["radix"].counted("generation_tokens") == [2 * 8 + 8]


def test_round_trips_cost_a_program_one_and_a_client_of_requests_one_for_each_call(
    comparison: VirtualComparison,
) -> None:
    times = comparison.run([Run([_chain("far away")], round_trip_s=100.0, seed=1)])
    assert 80 < times["ours"].by_run[0][0] < 150
    assert 160 < times["radix"].by_run[0][0] < 300


def test_applications_come_at_their_arrival(comparison: VirtualComparison) -> None:
    times = comparison.run([Run([_chain("now"), _chain("in an hour")], arrivals_s=[0.0, 3600.0])])
    assert all(seconds < 60 for seconds in times["ours"].by_run[0])


def test_with_a_model_of_a_step_the_same_run_takes_the_same_time_which_the_model_tells() -> None:
    model = Constants(a=1000.0, b=10.0, c=0.0, p=0.0)
    seconds = []
    for _ in range(2):
        with VirtualComparison([OURS], (*FLAGS, "--sim-step-ms", "0"), model=model) as comparison:
            seconds.append(comparison.run([Run([_chain("alone")])])["ours"].by_run[0][0])
    steps = 2 * 4
    assert seconds[0] == seconds[1]
    assert seconds[0] == pytest.approx(steps * 1.01, rel=0.05)


def test_a_world_ends_with_everything_it_began() -> None:
    world = World(*FLAGS)
    first = world.run(lambda: _run(world, "a"))
    second = world.run(lambda: _run(world, "a"))
    check_same([first], [second])
    world.close()


async def _run(world: World, name: str) -> dict[str, str]:
    from bench.network import Network

    done = await world.run_app(_chain(name), Network(0.0, 0), programs=True)
    return done.outputs
