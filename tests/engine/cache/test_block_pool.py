"""Blocks are conserved, whatever is done to them."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.cache.block_pool import BlockPool

NUM_BLOCKS = 7


class Pooling(RuleBasedStateMachine):
    """`held` is the model: who holds what; `cached` what a tree would have."""

    extent: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS, self.extent)
        self.held: list[int] = []
        self.cached: set[int] = set()
        self.begun = self.ended = 0

    @rule()
    def allocate(self) -> None:
        free = self.pool.num_free
        block = self.pool.allocate()
        assert (block is None) == (free == 0)
        if block is not None:
            assert block != 0
            assert block not in self.held
            assert block not in self.cached
            self.held.append(block)

    @precondition(lambda self: self.pool.num_free)
    @rule(data=st.data())
    def allocate_in_place(self, data: st.DataObject) -> None:
        """As tables do it: what is in the way moves, and loses nothing by it."""
        previous = data.draw(st.none() | st.integers(1, NUM_BLOCKS - 1))
        place = self.pool.place(previous)
        if place is not None and self.pool.is_idle(place):
            target = self.pool.spare(place, data.draw(st.integers(0, NUM_BLOCKS - 1)))
            self.pool.move(place, target)
            self.cached = self.cached - {place} | {target}
        block = self.pool.allocate(place)
        assert block is not None
        assert place in (None, block)
        assert block not in {0, *self.held, *self.cached}
        self.held.append(block)

    @precondition(lambda self: self.held or self.cached)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted({*self.held, *self.cached})))
        self.pool.hold(block)
        self.held.append(block)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.held)))
        self.held.remove(block)
        became_idle = self.pool.release(block)
        assert became_idle == (block not in self.held and block in self.cached)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def remember(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.held)))
        self.pool.remember(block)
        self.cached.add(block)

    @precondition(lambda self: self.cached)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.cached)))
        self.pool.forget(block)
        self.cached.remove(block)

    @rule()
    def begin_step(self) -> None:
        self.begun += 1
        self.pool.begin_step(self.begun)

    @precondition(lambda self: self.ended < self.begun)
    @rule()
    def end_step(self) -> None:
        self.ended += 1
        self.pool.end_step(self.ended)
        if self.ended == self.begun:
            assert self.pool.num_quarantined == 0

    @invariant()
    def conserved(self) -> None:
        self.pool.check_invariants()
        for block in range(1, NUM_BLOCKS):
            assert self.pool.refs(block) == self.held.count(block)
            assert self.pool.is_idle(block) == (block in self.cached and block not in self.held)


class PoolingOfExtents(Pooling):
    extent = 2


FEW = settings(max_examples=60, stateful_step_count=40, deadline=None)

TestPooling = Pooling.TestCase
TestPooling.settings = FEW
TestPoolingOfExtents = PoolingOfExtents.TestCase
TestPoolingOfExtents.settings = FEW


def test_a_block_released_while_a_step_is_in_flight_returns_when_that_step_is_done() -> None:
    pool = BlockPool(2)
    block = pool.allocate()
    assert block == 1
    pool.begin_step(1)
    pool.begin_step(2)
    pool.end_step(1)
    pool.release(block)
    assert pool.allocate() is None
    pool.end_step(2)
    assert pool.allocate() == block


def test_a_block_released_between_steps_is_free_at_once() -> None:
    pool = BlockPool(2)
    pool.begin_step(1)
    block = pool.allocate()
    assert block == 1
    pool.end_step(1)
    pool.release(block)
    assert pool.allocate() == block


def test_blocks_taken_together_are_neighbours() -> None:
    pool = BlockPool(9)
    taken = [pool.allocate() for _ in range(6)]
    for block in (4, 2, 3):
        pool.release(block)
    assert taken == [1, 2, 3, 4, 5, 6]
    assert [pool.allocate() for _ in range(3)] == [2, 3, 4]


def grow(pool: BlockPool, blocks: list[int], extent: int, count: int) -> None:
    """As tables do it, where nothing has to be evicted."""
    for _ in range(count):
        place = pool.place(blocks[-1] if len(blocks) % extent else None)
        if place is not None and pool.is_idle(place):
            pool.move(place, pool.spare(place, 0))
        block = pool.allocate(place)
        assert block is not None
        blocks.append(block)


def test_the_chunks_of_those_who_grow_together_are_each_in_an_extent_of_its_own() -> None:
    pool = BlockPool(64, extent=4)
    sequences: list[list[int]] = [[], [], []]
    for count in (2, 1, 1, 2):
        for blocks in sequences:
            grow(pool, blocks, 4, count)
    assert sequences == [
        [*range(4, 8), 16, 17],
        [*range(8, 12), 20, 21],
        [*range(12, 16), 24, 25],
    ]


def test_what_nobody_holds_gives_way_to_what_runs() -> None:
    pool = BlockPool(64, extent=4)
    ended, running, new = list[int](), list[int](), list[int]()
    grow(pool, ended, 4, 3)
    grow(pool, running, 4, 3)
    for block in ended:
        pool.remember(block)
        pool.release(block)
    grow(pool, new, 4, 3)
    assert new == ended
    assert pool.num_idle == 3
    assert all(pool.is_idle(block) for block in (60, 62, 63))


def test_nothing_is_refused_for_the_sake_of_a_place() -> None:
    pool = BlockPool(12, extent=4)
    sequences: list[list[int]] = [[], [], []]
    for blocks, count in zip(sequences, (1, 1, 3), strict=True):
        grow(pool, blocks, 4, count)
    grow(pool, sequences[0], 4, 6)
    assert sequences[0][:4] == [4, 5, 6, 7]
    assert sorted(block for blocks in sequences for block in blocks) == list(range(1, 12))
    assert pool.allocate() is None


@pytest.mark.parametrize("operation", ["hold", "release", "remember", "forget"])
def test_a_free_block_takes_part_in_nothing(operation: str) -> None:
    with pytest.raises(ValueError, match="block 3"):
        getattr(BlockPool(4), operation)(3)


def test_a_pool_has_a_block_beside_scratch() -> None:
    with pytest.raises(ValueError, match="beside scratch"):
        BlockPool(1)
