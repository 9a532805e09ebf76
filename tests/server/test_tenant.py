from __future__ import annotations

from server.tenant import ANONYMOUS, KeyRing


def test_a_ring_without_keys_lets_everybody_in_as_one() -> None:
    assert KeyRing(()).tenant(None) is KeyRing(()).tenant("anything") is ANONYMOUS


def test_a_key_finds_its_tenant_and_nothing_else_does() -> None:
    ring = KeyRing(("one", "two"))
    assert ring.tenant("one") == KeyRing(("one",)).tenant("one") != ring.tenant("two")
    assert [ring.tenant(wrong) for wrong in (None, "", "on", "one ", "ONE", "\udcff")] == [None] * 6


def test_tenants_do_not_share_cached_prefixes() -> None:
    ring = KeyRing(("one", "two"))
    one, two = ring.tenant("one"), ring.tenant("two")
    assert one is not None
    assert two is not None
    salts = {one.salt, two.salt, one.salted("a").salt, one.salted("b").salt, ANONYMOUS.salted("a").salt}
    assert len(salts) == 5
    assert one.salted("a") == one.salted("a")
    assert one.salted("a").id == one.id
