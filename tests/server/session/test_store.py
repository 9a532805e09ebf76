"""Sessions are found by their owners while they live."""

from __future__ import annotations

import pytest

from parrot import wire
from server.errors import Gone, NotFound, TooManyRequests
from server.session import store as store_module
from server.session.events import TaskFinished
from server.session.limits import Limits
from server.session.session import Session
from server.session.store import SessionStore
from tests.server.session.programs import environment


def filled(*ids: str, tenant: str = "t", ttl: float = 10.0) -> SessionStore:
    store = SessionStore()
    for id in ids:
        store.add(Session(id, tenant, 0.0, ttl=ttl))
    return store


def test_only_the_owner_finds_a_session() -> None:
    store = filled("a")
    assert store.get("t", "a", 1.0).id == "a"
    for tenant, id in (("other", "a"), ("t", "b")):
        with pytest.raises(NotFound):
            store.get(tenant, id, 1.0)
    assert [session.id for session in store.owned_by("t")] == ["a"]
    assert store.owned_by("other") == []


def test_a_removed_session_is_gone_for_its_owner_and_unknown_to_others() -> None:
    store = filled("a")
    store.remove("t", "a", 1.0)
    with pytest.raises(Gone, match="a was deleted"):
        store.get("t", "a", 2.0)
    with pytest.raises(NotFound):
        store.remove("other", "a", 2.0)
    store.check_invariants()


def test_a_session_expires_after_its_last_use() -> None:
    store = filled("a", "b")
    store.get("t", "b", 5.0)
    assert [session.id for session in store.expired(10.0)] == ["a"]
    assert [session.id for session in store.expired(14.9)] == []
    assert [session.id for session in store.expired(15.0)] == ["b"]
    with pytest.raises(Gone, match="a has expired"):
        store.get("t", "a", 16.0)


def test_a_session_in_which_something_runs_does_not_expire() -> None:
    store = filled("a")
    session = store.get("t", "a", 0.0)
    event = session.plan_submit([wire.Call(prompt="{{output:x}}")], environment())
    (task,) = session.apply(event, 0.0).ready
    assert store.expired(100.0) == []
    session.apply(TaskFinished(task.id, "x", ()), 100.0)
    assert store.expired(109.0) == []
    assert store.expired(110.0) == [session]


def test_a_tenant_may_have_so_many_sessions() -> None:
    store = SessionStore(Limits(sessions=1))
    store.add(Session("a", "t", 0.0))
    with pytest.raises(TooManyRequests):
        store.add(Session("b", "t", 0.0))
    store.add(Session("c", "other", 0.0))
    store.remove("t", "a", 0.0)
    store.add(Session("b", "t", 0.0))
    assert len(store) == 2
    store.check_invariants()


def test_the_oldest_idle_program_makes_room() -> None:
    store = SessionStore(Limits(sessions=3), in_use=lambda session: session.id == "read")
    assert store.make_room("t", 0.0) is None
    for id, evictable in (("kept", False), ("read", True), ("left", True)):
        store.add(Session(id, "t", 0.0, evictable=evictable))
    assert store.make_room("other", 1.0) is None
    (left,) = filter(None, [store.make_room("t", 1.0)])
    assert left.id == "left"
    with pytest.raises(Gone, match="left made room for another one"):
        store.get("t", "left", 2.0)
    store.check_invariants()


def test_who_finds_no_room_is_told_when_to_try_again() -> None:
    store = SessionStore(Limits(sessions=2))
    store.add(Session("a", "t", 0.0, ttl=100.0))
    store.add(Session("b", "t", 0.0, ttl=60.0))
    with pytest.raises(TooManyRequests) as error:
        store.make_room("t", 10.0)
    assert error.value.retry_after == 50.0
    store.remove("t", "b", 10.0)
    running = Session("c", "t", 10.0, evictable=True)
    store.add(running)
    running.apply(running.plan_submit([wire.Call(prompt="{{output:x}}")], environment()), 10.0)
    with pytest.raises(TooManyRequests) as error:
        store.make_room("t", 10.0)
    assert error.value.retry_after == 1.0
    store.check_invariants()


def test_a_session_that_somebody_waits_on_does_not_expire() -> None:
    waited = {"a"}
    store = SessionStore(in_use=lambda session: session.id in waited)
    store.add(Session("a", "t", 0.0, ttl=10.0))
    assert store.expired(100.0) == []
    assert store.next_expiry(100.0) == 110.0
    waited.clear()
    assert [session.id for session in store.expired(110.0)] == ["a"]


def test_only_so_many_removed_ids_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_REMEMBERED", 2)
    store = filled("a", "b", "c")
    for id in "abc":
        store.remove("t", id, 0.0)
    with pytest.raises(NotFound):
        store.get("t", "a", 0.0)
    with pytest.raises(Gone):
        store.get("t", "b", 0.0)
    assert store.all() == []
