"""What is kept of finished responses: whose it is, how much, how long."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from server.http.responses_store import ResponseStore, StoreBounds, StoredResponse


def response(id: str, size: int = 10) -> StoredResponse:
    return StoredResponse(id, id, b"x" * (size // 2), (b"y" * (size - size // 2),))


def test_a_response_is_found_by_its_tenant_alone() -> None:
    store = ResponseStore()
    store.put("a", response("r"), 0)
    assert store.get("a", "r", 1) == response("r")
    assert store.get("b", "r", 1) is None
    assert not store.remove("b", "r")
    assert store.remove("a", "r")
    assert store.get("a", "r", 1) is None


def test_the_least_recently_used_goes_first() -> None:
    store = ResponseStore(StoreBounds(tenant_bytes=30, total_bytes=100))
    for number in range(3):
        store.put("a", response(str(number)), number)
    store.get("a", "0", 5)
    store.put("a", response("3"), 6)
    assert [store.get("a", str(number), 7) is not None for number in range(4)] == [True, False, True, True]


def test_when_all_are_too_many_the_tenant_with_most_gives_way() -> None:
    store = ResponseStore(StoreBounds(tenant_bytes=60, total_bytes=70))
    store.put("small", response("s"), 0)
    for number in range(6):
        store.put("large", response(str(number)), 1 + number)
    store.put("third", response("t"), 9)
    assert store.get("small", "s", 10) is not None
    assert store.get("third", "t", 10) is not None
    assert store.get("large", "0", 10) is None
    assert store.get("large", "1", 10) is not None


def test_one_that_is_too_large_alone_drives_nobody_out() -> None:
    store = ResponseStore(StoreBounds(tenant_bytes=20, total_bytes=100))
    store.put("a", response("r"), 0)
    store.put("a", response("huge", 21), 1)
    assert store.get("a", "huge", 1) is None
    assert store.get("a", "r", 1) is not None


def test_what_nobody_uses_is_forgotten_in_time() -> None:
    store = ResponseStore(StoreBounds(ttl_s=10))
    store.put("a", response("old"), 0)
    store.put("a", response("used"), 1)
    assert store.get("a", "used", 9) is not None
    assert store.get("a", "old", 10.5) is None
    assert store.get("a", "used", 18) is not None
    assert store.get("a", "used", 29) is None
    store.check_invariants()


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = ResponseStore(StoreBounds(tenant_bytes=100, total_bytes=220, ttl_s=50))
        self.now = 0.0

    tenants = st.sampled_from("abcd")
    ids = st.sampled_from("12345678")

    @rule(tenant=tenants, id=ids, size=st.integers(0, 120), passed=st.floats(0, 30))
    def put(self, tenant: str, id: str, size: int, passed: float) -> None:
        self.now += passed
        self.store.put(tenant, response(id, size), self.now)
        assert (self.store.get(tenant, id, self.now) is not None) == (size <= 100)

    @rule(tenant=tenants, id=ids)
    def get(self, tenant: str, id: str) -> None:
        self.store.get(tenant, id, self.now)

    @rule(tenant=tenants, id=ids)
    def remove(self, tenant: str, id: str) -> None:
        self.store.remove(tenant, id)
        assert self.store.get(tenant, id, self.now) is None

    @invariant()
    def holds(self) -> None:
        self.store.check_invariants()


StoreMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestStore = StoreMachine.TestCase
