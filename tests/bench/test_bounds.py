from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.bounds import (
    Constants,
    Load,
    Stage,
    chain,
    cyclic_hits,
    duplicates,
    eager_beside,
    eager_idle,
    map_reduce,
    order,
    paced,
    staged_ms,
)

TINY = Constants(a=3.0, b=0.15, c=0.0005, p=0.08)
positive = st.floats(0.001, 100.0)
constants = st.builds(Constants, a=positive, b=positive, c=positive, p=positive)


def test_a_chain_without_a_network_gains_nothing_and_a_long_one_at_most_all_round_trips() -> None:
    assert chain(0.0, 24) == 1.0
    assert chain(0.33, 1) == pytest.approx(1.0)
    assert chain(0.33, 24) == pytest.approx(1.33 / (1 + 0.33 / 24))


def test_the_order_of_chains_halves_their_mean_completion_at_most_and_does_nothing_when_all_have_slots() -> (
    None
):
    assert order(4, 4) == 1.0
    assert order(2, 4) == 1.0
    assert order(24, 4) == pytest.approx(12 / 7)
    assert order(4000, 4) < 2.0


def test_half_duplicates_are_twice_as_fast() -> None:
    assert duplicates(0.0) == 1.0
    assert duplicates(0.5) == 2.0


@given(constants, st.integers(1, 32), st.integers(1, 32))
def test_a_wider_cap_never_raises_the_bound_of_map_reduce(found: Constants, cap: int, more: int) -> None:
    maps = 32
    narrow = map_reduce(found, maps, 32, 64, min(cap, maps))
    wide = map_reduce(found, maps, 32, 64, min(cap + more, maps))
    if maps % cap == 0 and maps % min(cap + more, maps) == 0:
        assert narrow >= wide - 1e-9
    assert map_reduce(found, maps, 32, 64, maps) == 1.0


@given(constants, st.lists(st.builds(Stage, *[st.integers(1, 100)] * 4), min_size=1, max_size=4))
def test_sharing_a_prefix_never_costs(found: Constants, stages: list[Stage]) -> None:
    shared = staged_ms(found, stages, sharing=True, batch=64)
    assert shared <= staged_ms(found, stages, sharing=False, batch=64) * (1 + 1e-9)


def test_a_stage_of_one_has_nothing_to_share() -> None:
    alone = [Stage(1, 100, 10, 5)]
    assert staged_ms(TINY, alone, sharing=True, batch=8) == staged_ms(TINY, alone, sharing=False, batch=8)


def test_on_a_cycle_the_least_recently_used_context_is_never_found_and_next_use_keeps_all_but_one() -> None:
    assert cyclic_hits(6, 6) == (1.0, 1.0)
    assert cyclic_hits(6, 3)[0] == 0.0
    assert cyclic_hits(6, 3)[1] == pytest.approx(2 / 5)
    assert cyclic_hits(6, 0) == (0.0, 0.0)


def test_prefill_hides_best_where_it_takes_as_long_as_the_wait() -> None:
    best = eager_idle(TINY, 1250, 100.0, 8)
    assert 1.5 < best < 2.0
    assert eager_idle(TINY, 10_000, 100.0, 8) < best
    assert eager_idle(TINY, 1, 100.0, 8) == pytest.approx(1.0, abs=0.01)


def test_beside_a_decoding_sequence_only_the_fixed_part_of_prefill_steps_is_saved() -> None:
    assert 1.0 < eager_beside(TINY, 1250, 32, 8) < 1.1


def test_a_call_costs_its_prompt_once_and_a_step_for_each_token() -> None:
    assert TINY.call_ms(100, 10) == pytest.approx(0.08 * 100 + 10 * (3.0 + 0.15 + 0.0005 * 105))
    assert TINY.call_ms(100, 10, cached=100) == pytest.approx(10 * (3.0 + 0.15 + 0.0005 * 105))


def test_batch_work_beside_chats_has_what_they_leave_of_their_limit() -> None:
    device = Constants(a=6.0, b=0.5, c=0.0, p=6.0 / 512)
    chats, work = Load(2, 10, 60), Load(20, 10, 100)
    assert paced(device, 14.0, chats, work) == pytest.approx(1000 * 14 / 7 / (1000 + 100 * 7))
    assert paced(device, 8.0, chats, work) == pytest.approx(1000 * 8 / 1 / (1000 + 100 * 7))
    assert paced(device, 7.0, chats, work) == math.inf
