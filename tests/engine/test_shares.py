"""Several tenants on one engine: who has been served least goes next."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.shares import DECODE_COST, Shares
from engine.types import Salt, Urgency
from tests.engine.test_scheduler import LIMITS, Engine, prompt

A, B = (Salt(0, b"a"),), (Salt(0, b"b"),)


def flooded(disabled: frozenset[str] = frozenset(), slots: int = 2) -> Engine:
    """Tenant a has 30 requests here; then tenant b comes with three."""
    engine = Engine(replace(LIMITS, max_num_seqs=slots, disabled=disabled))
    for index in range(30):
        engine.add(index, prompt(40, index), max_tokens=4, key=(index,), salts=A)
    for _ in range(3):
        engine.step()
    for index in range(100, 103):
        engine.add(index, prompt(40, index), max_tokens=4, key=(index,), salts=B)
    engine.run()
    return engine


@pytest.mark.parametrize(("disabled", "fair"), [(frozenset[str](), True), (frozenset({"fair-share"}), False)])
def test_who_comes_with_little_does_not_wait_for_all_of_another_tenant(
    disabled: frozenset[str], fair: bool
) -> None:
    finished = flooded(disabled).finished
    assert (finished.index(102) <= 10) == fair
    assert [id for id in finished if id < 30] == sorted(id for id in finished if id < 30), (
        "order within a tenant"
    )


@pytest.mark.parametrize(("salts", "paused"), [(A, 1), (B, 0)])
def test_a_call_takes_the_slot_of_a_later_one_of_its_own_tenant_only(
    salts: tuple[Salt, ...], paused: int
) -> None:
    engine = Engine(replace(LIMITS, max_num_seqs=1))
    engine.add(1, prompt(40), max_tokens=8, key=(5,), salts=A, application=5)
    engine.step()
    engine.add(2, prompt(40, 2), max_tokens=8, key=(1,), salts=salts, application=1)
    engine.step()
    assert engine.scheduler.counts.num_preemptions == paused
    engine.run()


def test_an_urgent_request_goes_before_a_patient_one_of_whoever_was_served_least() -> None:
    engine = Engine(replace(LIMITS, max_num_seqs=1))
    engine.add(1, prompt(40), max_tokens=30, salts=A)
    engine.step()
    engine.add(2, prompt(40, 2), urgency=Urgency.THROUGHPUT, salts=B)
    engine.add(3, prompt(40, 3), salts=A)
    engine.run()
    assert engine.finished.index(3) < engine.finished.index(2)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=4), min_size=2, max_size=4))
def test_of_tenants_that_always_wait_none_gets_more_than_the_dearest_request_above_another(
    costs: list[list[int]],
) -> None:
    """Each tenant asks for its costs over and over; there is one server."""
    shares = Shares()
    names = [bytes([number]) for number in range(len(costs))]
    for name in names:
        shares.enter(name)
    given_, dearest = dict.fromkeys(names, 0), max(map(max, costs))
    for turn in range(200):
        name = min(names, key=lambda name: (shares.served(name), name))
        cost = costs[names.index(name)][turn % len(costs[names.index(name)])]
        shares.charge(name, cost, decoded=False)
        given_[name] += cost
        assert max(given_.values()) - min(given_.values()) <= dearest
    shares.check_invariants(names)


def test_who_was_away_brings_no_credit_and_no_way_to_shed_a_debt() -> None:
    shares = Shares()
    shares.enter(b"a")
    shares.charge(b"a", 100, decoded=False)
    shares.enter(b"b")
    assert shares.served(b"b") == shares.served(b"a")
    shares.charge(b"b", 10, decoded=True)
    shares.leave(b"b")
    shares.enter(b"b")
    assert shares.served(b"b") == 100 + 10 * DECODE_COST
    shares.leave(b"a")
    shares.leave(b"b")
    shares.enter(b"b")
    assert shares.served(b"b") == 0, "when nobody is here all begin anew"
    shares.check_invariants([b"b"])
