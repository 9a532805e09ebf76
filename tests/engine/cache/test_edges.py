"""An edge is its tokens and their salts; common prefixes are those that may be shared."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.cache.edges import Edges, common_length, common_salted_length, edge, salt_at
from engine.types import Salt

tokens = st.lists(st.integers(0, 2), max_size=12)
salts = st.lists(
    st.builds(Salt, st.integers(0, 12), st.sampled_from([b"", b"a", b"b", b"\x00"])),
    max_size=3,
    unique_by=lambda salt: salt.start,
).map(lambda some: tuple(sorted(some, key=lambda salt: salt.start)))


def brute_force(a: list[int], a_salts: tuple[Salt, ...], b: list[int], b_salts: tuple[Salt, ...]) -> int:
    length = 0
    for position, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other or salt_at(position, a_salts) != salt_at(position, b_salts):
            break
        length += 1
    return length


@given(tokens, salts, tokens, salts)
def test_edges_have_in_common_what_equal_tokens_under_equal_salts_have(
    a: list[int], a_salts: tuple[Salt, ...], b: list[int], b_salts: tuple[Salt, ...]
) -> None:
    expected = brute_force(a, a_salts, b, b_salts)
    assert common_salted_length(a, a_salts, b, b_salts, 12) == expected
    one, other = edge(a, 0, len(a), a_salts), edge(b, 0, len(b), b_salts)
    assert max(common_length(one, other, 13) - 1, 0) == expected


@given(tokens, tokens, st.integers(0, 12))
def test_the_common_length_is_that_of_a_walk(a: list[int], b: list[int], limit: int) -> None:
    assert common_length(a, b, limit) == min(brute_force(a, (), b, ()), limit)


@given(st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), unique_by=tuple), tokens)
def test_the_closest_edge_is_the_one_a_search_would_find(keys: list[list[int]], wanted: list[int]) -> None:
    edges: Edges[int] = Edges()
    for index, key in enumerate(keys):
        edges.add((b"", *key), index)
    best = max((brute_force(key, (), wanted, ()) for key in keys), default=0)
    closest = edges.closest((b"", *wanted))
    assert (closest[1] if closest else 0) == best
    for key in keys:
        edges.remove((b"", *key))
    assert len(edges) == 0


def test_a_salt_of_an_earlier_block_still_holds() -> None:
    assert edge([1, 2, 3, 4], 2, 4, (Salt(1, b"x"),)) == (b"x", 3, 4)


def test_a_token_under_a_salt_is_never_taken_for_another_token() -> None:
    plain = edge([7, 7], 0, 2, ())
    assert edge([7, 7], 0, 2, (Salt(1, b"\x00"),)) != plain
    assert edge([7, 7], 0, 2, (Salt(1, b""),)) == plain
