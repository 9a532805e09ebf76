from __future__ import annotations

from server.tenant import ANONYMOUS, ApiKey, KeyRing


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


def test_keys_of_one_salt_share_a_cache_and_nothing_else() -> None:
    ring = KeyRing((), (ApiKey(key="one", salt="team"), ApiKey(key="two", salt="team"), ApiKey(key="team")))
    one, two, team = ring.tenant("one"), ring.tenant("two"), ring.tenant("team")
    assert one is not None
    assert two is not None
    assert team is not None
    assert one.salt == two.salt != team.salt
    assert one.id != two.id


def test_a_key_brings_its_own_limit() -> None:
    tenant = KeyRing((), (ApiKey(key="one", max_concurrency=3),)).tenant("one")
    assert tenant is not None
    assert tenant.max_concurrency == tenant.salted("x").max_concurrency == 3
