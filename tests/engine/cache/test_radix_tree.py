"""The tree finds what was put in, under the salts it was put in with, and lets go of what is wanted least."""

from __future__ import annotations

import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.cache.block_tables import BlockTables
from engine.cache.edges import common_salted_length
from engine.sequence import Sequence, from_generate
from engine.types import Generate, Salt, SamplingParams

SIZE = 4
SALTS = [(), (Salt(0, b"a"),), (Salt(0, b"a"), Salt(6, b"b")), (Salt(6, b"c"),)]

ids = st.lists(st.integers(0, 1), min_size=1, max_size=14)


def a_sequence(tokens: list[int], salts: tuple[Salt, ...] = ()) -> Sequence:
    request = Generate(1, tuple(tokens), SamplingParams(max_tokens=1, seed=0), salts=salts)
    return from_generate(request, arrival=1, max_model_len=10**6)


def fill(tables: BlockTables, tokens: list[int], salts: tuple[Salt, ...] = ()) -> Sequence | None:
    """A sequence that holds all of its tokens, published; None if there was no room."""
    sequence = a_sequence(tokens, salts)
    if not tables.take(sequence, tables.match(sequence), partial=False):
        return None
    if tables.grow(sequence, len(tokens)) < len(tokens):
        tables.release(sequence)
        return None
    sequence.num_committed = len(tokens)
    tables.publish(sequence, partial=True)
    return sequence


class Caching(RuleBasedStateMachine):
    """Sequences come, hold their blocks, and leave. `known` is everything that was ever published."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = BlockTables(12, SIZE, caching=True, extent=3)
        self.sequences: list[Sequence] = []
        self.known: list[tuple[list[int], tuple[Salt, ...]]] = []

    @rule(tokens=ids, salts=st.sampled_from(SALTS))
    def add(self, tokens: list[int], salts: tuple[Salt, ...]) -> None:
        sequence = fill(self.tables, tokens, salts)
        if sequence is not None:
            self.sequences.append(sequence)
            self.known.append((tokens, salts))

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.sequences) - 1))
        self.tables.release(self.sequences.pop(index))

    @rule(tokens=ids, salts=st.sampled_from(SALTS))
    def match(self, tokens: list[int], salts: tuple[Salt, ...]) -> None:
        """At most what somebody put in, at least what somebody still holds."""
        found = self.tables.tree.match(tokens, salts, len(tokens)).num_tokens(SIZE)
        assert found <= max((self.common(tokens, salts, *other) for other in self.known), default=0)
        held = [(s.tokens, s.salts) for s in self.sequences]
        full = max((self.common(tokens, salts, *other) // SIZE * SIZE for other in held), default=0)
        assert found >= full

    @rule(tokens=ids, salts=st.sampled_from(SALTS), next_use=st.none() | st.integers(0, 5))
    def hint(self, tokens: list[int], salts: tuple[Salt, ...], next_use: int | None) -> None:
        self.tables.tree.hint(tokens, salts, next_use)

    @rule()
    def evict(self) -> None:
        idle = self.tables.pool.num_idle
        assert self.tables.tree.evict() == (idle > 0)
        assert self.tables.pool.num_idle == max(idle - 1, 0)

    @rule()
    def tick(self) -> None:
        self.tables.tree.tick()

    @invariant()
    def holds(self) -> None:
        self.tables.check_invariants(self.sequences)

    @staticmethod
    def common(a: list[int], a_salts: tuple[Salt, ...], b: list[int], b_salts: tuple[Salt, ...]) -> int:
        return common_salted_length(a, a_salts, b, b_salts, len(a))


TestCaching = Caching.TestCase
TestCaching.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


@pytest.fixture
def tables() -> BlockTables:
    return BlockTables(64, SIZE, caching=True)


def cache(tables: BlockTables, tokens: list[int], salts: tuple[Salt, ...] = ()) -> None:
    sequence = fill(tables, tokens, salts)
    assert sequence is not None
    tables.release(sequence)


def cached(tables: BlockTables, tokens: list[int], salts: tuple[Salt, ...] = ()) -> int:
    return tables.tree.match(tokens, salts, len(tokens)).num_tokens(SIZE)


def test_a_match_may_end_inside_a_block(tables: BlockTables) -> None:
    cache(tables, [1, 2, 3, 4, 5, 6, 7, 8])
    assert cached(tables, [1, 2, 3, 4, 5, 6, 9]) == 6
    assert cached(tables, [1, 2, 9]) == 2


def test_the_tail_of_what_ended_is_found(tables: BlockTables) -> None:
    cache(tables, [1, 2, 3, 4, 5, 6])
    assert cached(tables, [1, 2, 3, 4, 5, 6, 7]) == 6


def test_a_longer_tail_takes_the_place_of_a_shorter_one(tables: BlockTables) -> None:
    cache(tables, [1, 2])
    cache(tables, [1, 2, 3])
    cache(tables, [1])
    assert len(tables.tree) == 1
    assert cached(tables, [1, 2, 3]) == 3


def test_nothing_is_found_under_another_salt(tables: BlockTables) -> None:
    cache(tables, [1, 2, 3, 4, 5, 6, 7, 8], (Salt(0, b"tenant"),))
    assert cached(tables, [1, 2, 3, 4], ()) == 0
    assert cached(tables, [1, 2, 3, 4], (Salt(0, b"other"),)) == 0
    assert cached(tables, [1, 2, 3, 4], (Salt(0, b"tenant"),)) == 4


def test_a_public_prefix_is_shared_up_to_the_token_where_it_ends(tables: BlockTables) -> None:
    cache(tables, [1, 2, 3, 4, 5, 6, 7, 8], (Salt(6, b"one"),))
    assert cached(tables, [1, 2, 3, 4, 5, 6, 7, 8], (Salt(6, b"two"),)) == 6
    assert cached(tables, [1, 2, 3, 4, 5, 6, 7, 8], (Salt(6, b"one"),)) == 8


def test_the_least_recently_used_leaf_goes_first(tables: BlockTables) -> None:
    cache(tables, [1, 1, 1, 1])
    tables.tree.tick()
    cache(tables, [2, 2, 2, 2])
    tables.tree.tick()
    cache(tables, [1, 1, 1, 1])
    assert tables.tree.evict()
    assert (cached(tables, [1, 1, 1, 1]), cached(tables, [2, 2, 2, 2])) == (4, 0)


def test_a_leaf_goes_before_what_it_extends(tables: BlockTables) -> None:
    cache(tables, [1, 1, 1, 1, 2, 2, 2, 2])
    assert tables.tree.evict()
    assert cached(tables, [1, 1, 1, 1, 2, 2, 2, 2]) == 4


def test_what_was_released_goes_first_and_the_farthest_use_last_but_one(tables: BlockTables) -> None:
    soon, late, released, plain = [1] * 4, [2] * 4, [3] * 4, [4] * 4
    for tokens in (soon, late, released, plain):
        cache(tables, tokens)
    tables.tree.hint(soon, (), 5)
    tables.tree.hint(late, (), 50)
    tables.tree.hint(released, (), None)
    gone = []
    while tables.tree.evict():
        gone.append([tokens for tokens in (soon, late, released, plain) if not cached(tables, tokens)])
        gone[-1] = [tokens for tokens in gone[-1] if all(tokens not in before for before in gone[:-1])]
    assert gone == [[released], [plain], [late], [soon]]


def test_a_hint_that_does_not_come_true_is_forgotten(tables: BlockTables) -> None:
    cache(tables, [1] * 4)
    tables.tree.hint([1] * 4, (), 2)
    for _ in range(6):
        tables.tree.tick()
    cache(tables, [2] * 4)
    assert tables.tree.evict()
    assert (cached(tables, [1] * 4), cached(tables, [2] * 4)) == (0, 4)


def test_a_block_that_was_evicted_and_taken_again_may_be_hinted_in_the_same_step() -> None:
    tables = BlockTables(2, SIZE, caching=True)
    for tokens in ([1, 2], [3, 4]):
        cache(tables, tokens)
        tables.tree.hint(tokens, (), 3)
    assert (cached(tables, [1, 2]), cached(tables, [3, 4])) == (0, 2)


def test_releasing_a_branch_leaves_what_others_extend(tables: BlockTables) -> None:
    stem, one, other = [1] * 4, [2] * 4, [3] * 4
    cache(tables, stem + one)
    cache(tables, stem + other)
    cache(tables, [9] * 4)
    tables.tree.hint(stem + one, (), None)
    assert tables.tree.evict()
    assert cached(tables, stem + one) == 4
    assert cached(tables, stem + other) == 8


def test_sequences_that_computed_the_same_end_up_with_the_same_blocks(tables: BlockTables) -> None:
    first, second = a_sequence([5] * 8), a_sequence([5] * 8)
    for sequence in (first, second):
        assert tables.take(sequence, tables.match(sequence), partial=False)
        tables.grow(sequence, 8)
        sequence.num_committed = 8
    assert not set(first.blocks) & set(second.blocks)
    tables.publish(first)
    assert tables.publish(second)
    assert first.blocks == second.blocks
    tables.check_invariants([first, second])


def test_a_prompt_of_100000_tokens_is_matched_and_evicted_without_recursion_and_fast() -> None:
    tables = BlockTables(2000, 64, caching=True)
    tokens = [i % 1000 for i in range(100_000)]
    begun = time.perf_counter()
    cache(tables, tokens)
    assert tables.tree.match(tokens, (), len(tokens)).num_tokens(64) == 100_000
    while tables.tree.evict():
        pass
    assert len(tables.tree) == 0
    assert time.perf_counter() - begun < 2.0
