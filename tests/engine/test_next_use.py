"""What is kept when not everything fits: with the next use known, what comes back first."""

from __future__ import annotations

import pytest

from engine.limits import Limits
from engine.scheduler import BatchScheduler
from engine.types import Generate, Hint, SamplingParams, Warm
from tests.engine.paged_runner import PagedRunner, expected_tokens

VOCAB = 1000
BLOCK = 16
CONTEXT = 4 * BLOCK
STEPS = 2
"""Of one request: its prompt, and one token more."""


class Engine:
    """Runs one request after the other, each a context and a question of its own."""

    def __init__(self, num_contexts: int, disabled: frozenset[str] = frozenset()) -> None:
        """Room for so many contexts, and for a question."""
        num_blocks = 1 + num_contexts * CONTEXT // BLOCK + 1
        limits = Limits(num_blocks, BLOCK, 1024, 4, 512, VOCAB, disabled)
        self.scheduler = BatchScheduler(limits)
        self.runner = PagedRunner(num_blocks, BLOCK, 1024, VOCAB)
        self.num_requests = 0
        self.last_ids: tuple[int, ...] = ()  # of the last request, its output included

    def ask(self, context: tuple[int, ...]) -> int:
        """How much of the context was there."""
        self.num_requests += 1
        prompt = (*context, self.num_requests, 1, 2)
        sampling = SamplingParams(max_tokens=STEPS, seed=self.num_requests)
        self.scheduler.add(Generate(self.num_requests, prompt, sampling, boundaries=(len(context),)))
        deltas = []
        while self.scheduler.has_work:
            batch = self.scheduler.schedule()
            assert batch is not None
            deltas += self.scheduler.commit(self.runner.run(batch))
            self.scheduler.check_invariants()
        tokens = [token for delta in deltas for token in delta.token_ids]
        assert tokens == expected_tokens(prompt, sampling, VOCAB, 1024)[0]
        self.last_ids = (*prompt, *tokens)
        return min(deltas[-1].cached_tokens, len(context))

    def hint(self, context: tuple[int, ...], next_use: int | None) -> None:
        self.scheduler.hint(Hint(context, next_use=next_use))

    def cached(self, context: tuple[int, ...]) -> int:
        return self.scheduler.tables.tree.match(context, (), len(context)).num_tokens(BLOCK)


def a_context(number: int, length: int = CONTEXT) -> tuple[int, ...]:
    return tuple((number * 37 + i * 7) % VOCAB for i in range(length))


def hit_rate(engine: Engine, num_contexts: int, rounds: int = 12, *, hints: bool = True) -> float:
    """Of the contexts' tokens, asked for in turn, after a round to warm up."""
    found = 0
    for turn in range(rounds * num_contexts):
        context = a_context(turn % num_contexts)
        cached = engine.ask(context)
        found += cached if turn >= num_contexts else 0
        if hints:
            engine.hint(context, (num_contexts - 1) * STEPS + 1)
    return found / ((rounds - 1) * num_contexts * CONTEXT)


@pytest.mark.parametrize(("contexts", "slots"), [(5, 3), (8, 6), (6, 2), (10, 9)])
def test_cyclic_reuse_hits_nearly_as_often_as_is_possible(contexts: int, slots: int) -> None:
    bound = (slots - 1) / (contexts - 1)  # of Belady's rule on a cycle
    assert 0.93 * bound <= hit_rate(Engine(slots), contexts) <= 1.1 * bound


@pytest.mark.parametrize(("contexts", "slots"), [(5, 3), (10, 9)])
def test_without_hints_cyclic_reuse_never_hits(contexts: int, slots: int) -> None:
    assert hit_rate(Engine(slots), contexts, hints=False) == 0.0
    off = Engine(slots, frozenset({"next-use-eviction"}))
    assert hit_rate(off, contexts) == 0.0, "and with the toggle off hints are no matter"


def test_what_is_released_makes_room_before_what_nobody_spoke_of() -> None:
    engine = Engine(2)
    engine.ask(a_context(1))
    engine.ask(a_context(2))
    engine.hint(engine.last_ids, None)
    engine.ask(a_context(3))
    assert engine.cached(a_context(1)) == CONTEXT
    assert engine.cached(a_context(2)) == 0


def test_releasing_what_others_extend_inside_a_block_releases_nothing() -> None:
    engine = Engine(2)
    engine.ask(a_context(1))
    engine.ask(a_context(2))
    engine.hint((*a_context(2), 2), None)  # the question goes on
    engine.hint(a_context(2), None)  # the question extends it
    engine.ask(a_context(3))
    assert engine.cached(a_context(1)) == 0, "the least recently used has gone"
    assert engine.cached(a_context(2)) == CONTEXT


def test_a_use_up_to_a_boundary_inside_a_block_keeps_that_block() -> None:
    engine = Engine(2)
    engine.ask(a_context(1))
    engine.ask(a_context(2))
    engine.hint(a_context(1)[: CONTEXT - 5], 10)
    engine.ask(a_context(3))
    assert engine.cached(a_context(1)[: CONTEXT - 5]) == CONTEXT - 5


def test_what_a_request_has_left_is_released_by_its_id_from_a_position_on() -> None:
    engine = Engine(2)
    engine.ask(a_context(1))
    engine.ask(a_context(2))
    engine.scheduler.hint(Hint(id=2, begin=2 * BLOCK))
    engine.ask((*a_context(3), *a_context(4)[: BLOCK // 2]))
    assert engine.cached(a_context(2)) == 2 * BLOCK, "its end went first, its beginning stays"


def test_what_a_request_has_left_is_wanted_by_its_id_up_to_a_position() -> None:
    engine = Engine(2)
    engine.ask(a_context(1))
    engine.ask(a_context(2))
    engine.scheduler.hint(Hint(id=1, next_use=5, end=2 * BLOCK))
    engine.ask(a_context(3))
    assert engine.cached(a_context(1)) == 2 * BLOCK


def test_a_hint_about_a_request_that_nobody_remembers_is_ignored() -> None:
    engine = Engine(2)
    engine.ask(a_context(1))
    engine.scheduler.hint(Hint(id=77, next_use=1))
    engine.ask(a_context(2))
    engine.ask(a_context(3))
    engine.scheduler.hint(Hint(id=1))  # long gone from the cache
    engine.scheduler.check_invariants()
    assert engine.cached(a_context(1)) == 0


def test_what_was_computed_ahead_stays_before_what_nobody_spoke_of() -> None:
    engine = Engine(2)
    engine.scheduler.add(Warm(99, a_context(1)))
    while engine.scheduler.has_work:
        batch = engine.scheduler.schedule()
        if batch is not None:
            engine.scheduler.commit(engine.runner.run(batch))
        engine.scheduler.take_deltas()
    engine.ask(a_context(2))
    engine.ask(a_context(3))
    assert engine.cached(a_context(1)) == CONTEXT
    assert engine.cached(a_context(2)) == 0


def test_what_a_hint_said_of_blocks_that_its_user_did_without_is_believed_no_more() -> None:
    engine = Engine(2)
    turn = CONTEXT - BLOCK
    foretold, came = a_context(1), (*a_context(1)[:turn], *a_context(2)[:BLOCK])
    engine.ask(foretold)
    engine.hint(foretold, 1000)
    assert engine.ask(came) == turn, "the user has come, and takes another way at the last block"
    engine.ask(a_context(3))
    assert engine.cached(foretold) == turn, "it was used least recently"
    assert engine.cached(came) == CONTEXT
