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

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS)
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


TestPooling = Pooling.TestCase
TestPooling.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


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


@pytest.mark.parametrize("operation", ["hold", "release", "remember", "forget"])
def test_a_free_block_takes_part_in_nothing(operation: str) -> None:
    with pytest.raises(ValueError, match="block 3"):
        getattr(BlockPool(4), operation)(3)


def test_a_pool_has_a_block_beside_scratch() -> None:
    with pytest.raises(ValueError, match="beside scratch"):
        BlockPool(1)
