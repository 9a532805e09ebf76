"""Whatever is asked for in whatever order: every request ends, with the tokens it would give alone, and blocks
are conserved. The runner reads its KV through block tables, copies and plans, so wrong ones give wrong tokens."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.batch import SampledTokens
from engine.limits import Limits
from engine.scheduler import BatchScheduler
from engine.types import Generate, Hint, Objective, Salt, SamplingParams, TokenDelta, Urgency, Warm
from tests.engine.paged_runner import PagedRunner, expected_tokens

VOCAB = 12
STEMS = [tuple((stem * 7 + i * (stem + 1)) % VOCAB for i in range(60)) for stem in range(3)]
SALTS = [(), (Salt(0, b"a"),), (Salt(0, b"a"), Salt(9, b"b")), (Salt(5, b"c"),)]

prompts = st.builds(
    lambda stem, length, tail: STEMS[stem][:length] + tuple(tail),
    st.integers(0, 2),
    st.integers(0, 60),
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=6),
)
objectives = st.builds(Objective, st.sampled_from(Urgency), st.none() | st.floats(0.01, 20))
keys = st.lists(st.integers(0, 3), max_size=2).map(tuple)


class Scheduling(RuleBasedStateMachine):
    """A small pool, so that preemption and eviction are the rule. `ahead`: schedule before commit."""

    limits = Limits(
        num_blocks=21,
        block_size=4,
        max_model_len=72,
        max_num_seqs=5,
        max_num_batched_tokens=17,
        vocab_size=VOCAB,
        extent=3,
    )
    ahead = False

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = BatchScheduler(self.limits)
        self.runner = PagedRunner(
            self.limits.num_blocks, self.limits.block_size, self.limits.max_model_len, self.limits.vocab_size
        )
        self.requests: dict[int, Generate | Warm] = {}
        self.outputs: dict[int, list[int]] = {}
        self.in_flight: deque[SampledTokens] = deque()
        self.step_ms = 1.0  # what its steps are said to take: any nonsense
        self.next_id = 0

    @rule(
        prompt=prompts,
        salts=st.sampled_from(SALTS),
        max_tokens=st.integers(1, 20),
        min_tokens=st.integers(0, 3),
        stops=st.lists(st.integers(0, VOCAB - 1), max_size=1),
        objective=objectives,
        key=keys,
        choices=st.integers(1, 3),
    )
    def generate(
        self,
        prompt: tuple[int, ...],
        salts: tuple[Salt, ...],
        max_tokens: int,
        min_tokens: int,
        stops: list[int],
        objective: Objective,
        key: tuple[int, ...],
        choices: int,
    ) -> None:
        for _ in range(choices):
            self.next_id += 1
            sampling = SamplingParams(
                max_tokens=max_tokens, seed=self.next_id, min_tokens=min_tokens, stop_token_ids=tuple(stops)
            )
            request = Generate(self.next_id, prompt, sampling, objective, key, salts)
            self.requests[self.next_id] = request
            self.outputs[self.next_id] = []
            self.scheduler.add(request)

    @rule(prompt=prompts, salts=st.sampled_from(SALTS), key=keys)
    def warm(self, prompt: tuple[int, ...], salts: tuple[Salt, ...], key: tuple[int, ...]) -> None:
        self.next_id += 1
        self.requests[self.next_id] = Warm(self.next_id, prompt, key, salts)
        self.outputs[self.next_id] = []
        self.scheduler.add(self.requests[self.next_id])

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.requests)))
        if isinstance(self.requests[request_id], Generate):
            del self.requests[request_id]  # of a Warm the end is told
        self.scheduler.abort(request_id)

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), objective=objectives, key=keys)
    def reprioritise(self, data: st.DataObject, objective: Objective, key: tuple[int, ...]) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.requests)))
        self.scheduler.reprioritise(request_id, objective, key)

    @rule(prompt=prompts, salts=st.sampled_from(SALTS), next_use=st.none() | st.integers(0, 8))
    def hint(self, prompt: tuple[int, ...], salts: tuple[Salt, ...], next_use: int | None) -> None:
        self.scheduler.hint(Hint(prompt, salts, next_use))

    @rule(
        request_id=st.integers(0, 12),
        next_use=st.none() | st.integers(0, 8),
        begin=st.integers(0, 80),
        end=st.none() | st.integers(0, 80),
    )
    def hint_by_id(self, request_id: int, next_use: int | None, begin: int, end: int | None) -> None:
        """Also of requests that run, or never were."""
        self.scheduler.hint(Hint(id=request_id, next_use=next_use, begin=begin, end=end))

    @rule(steps=st.integers(1, 6), step_ms=st.floats(0, 50))
    def step(self, steps: int, step_ms: float) -> None:
        self.step_ms = step_ms
        for _ in range(steps):
            self.one_step()

    @precondition(lambda self: self.requests and not self.in_flight)
    @rule(data=st.data())
    def one_step_of_poison(self, data: st.DataObject) -> None:
        """The runner raises for one request from now on: it ends, alone."""
        request_id = data.draw(st.sampled_from(sorted(self.requests)))
        self.runner.poison.add(request_id)

    def one_step(self) -> None:
        batch = self.scheduler.schedule()
        if batch is not None:
            assert sum(rows.length for rows in batch.sequences) > 0
            if "chunked-prefill" not in self.limits.disabled:
                assert sum(rows.length for rows in batch.sequences) <= self.limits.max_num_batched_tokens
            try:
                self.in_flight.append(self.runner.run(batch))
            except RuntimeError:
                while self.in_flight:
                    self.report(self.scheduler.commit(self.in_flight.popleft()))
                self.report(self.scheduler.fail(batch.step_id, "poisoned"))
        else:
            self.report(self.scheduler.take_deltas())
            assert self.in_flight or not self.scheduler.has_work, "work waits and nothing runs"
        while len(self.in_flight) > (1 if self.ahead and batch is not None else 0):
            self.report(self.scheduler.commit(self.in_flight.popleft()))
            self.scheduler.observe(self.step_ms)

    def report(self, deltas: list[TokenDelta]) -> None:
        for delta in deltas:
            request = self.requests[delta.id]
            self.outputs[delta.id].extend(delta.token_ids)
            if delta.finish_reason is not None:
                del self.requests[delta.id]
                self.check_output(request, delta)

    def check_output(self, request: Generate | Warm, last: TokenDelta) -> None:
        tokens = self.outputs[request.id]
        if last.finish_reason == "error":
            poisoned = request.id in self.runner.poison or (
                isinstance(request, Warm) and 0 in self.runner.poison
            )
            assert poisoned or "--" in (last.error or "")
        elif isinstance(request, Warm):
            assert last.finish_reason in ("stop", "abort")
            assert last.cached_tokens <= last.computed_tokens <= len(request.token_ids)
            assert last.finish_reason == "abort" or last.computed_tokens == len(request.token_ids)
            assert not tokens
        else:
            wanted, reason = expected_tokens(
                request.token_ids, request.sampling, VOCAB, self.scheduler.limits.capacity
            )
            assert tokens == wanted
            assert last.finish_reason == reason
            assert last.cached_tokens < len(request.token_ids)

    @invariant()
    def holds(self) -> None:
        self.scheduler.check_invariants()

    def teardown(self) -> None:
        steps = 0
        while self.scheduler.has_work or self.in_flight:
            self.one_step()
            self.scheduler.check_invariants()
            steps += 1
            assert steps < 5000, "requests do not end"
        assert not self.requests
        pool = self.scheduler.tables.pool
        assert pool.num_available == pool.num_blocks - 1, "blocks are lost"


class SchedulingAhead(Scheduling):
    ahead = True


class SchedulingOfLongPrompts(Scheduling):
    """Whole chunks are shared here."""

    limits = Limits(
        num_blocks=24,
        block_size=64,
        max_model_len=700,
        max_num_seqs=4,
        max_num_batched_tokens=200,
        vocab_size=VOCAB,
        extent=4,
    )

    @rule(length=st.integers(250, 600), tail=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9))
    def generate_long(self, length: int, tail: list[int]) -> None:
        prompt = tuple((i * 5 + i // 7) % VOCAB for i in range(length)) + tuple(tail)
        for _ in range(2):
            self.next_id += 1
            request = Generate(self.next_id, prompt, SamplingParams(max_tokens=10, seed=self.next_id))
            self.requests[self.next_id] = request
            self.outputs[self.next_id] = []
            self.scheduler.add(request)


FEW = settings(max_examples=60, stateful_step_count=30, deadline=None)

TestScheduling = Scheduling.TestCase
TestScheduling.settings = FEW
TestSchedulingAhead = SchedulingAhead.TestCase
TestSchedulingAhead.settings = FEW
TestSchedulingOfLongPrompts = SchedulingOfLongPrompts.TestCase
TestSchedulingOfLongPrompts.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)


@pytest.mark.parametrize(
    "toggle",
    [
        "prefix-cache",
        "in-flight-dedup",
        "shared-prefix-attention",
        "chunked-prefill",
        "pausing",
        "objective-batching",
        "next-use-eviction",
        "kept-output",
        "fair-share",
    ],
)
def test_every_toggle_leaves_the_tokens_as_they_are(toggle: str) -> None:
    limits = Limits(
        num_blocks=40,
        block_size=64,
        max_model_len=700,
        max_num_seqs=6,
        max_num_batched_tokens=200,
        vocab_size=VOCAB,
        disabled=frozenset({toggle}),
    )
    machine = Scheduling()
    machine.limits = limits
    machine.scheduler = BatchScheduler(limits)
    machine.runner = PagedRunner(limits.num_blocks, limits.block_size, limits.max_model_len, VOCAB)
    for index in range(8):
        prompt = (*(i % VOCAB for i in range(300)), index, 1, 2)
        objective = Objective(Urgency(index % 2), 0.5 if index % 4 == 0 else None)
        salts = (Salt(0, b"ab"[index % 3 % 2 :][:1]),)
        request = Generate(index, prompt, SamplingParams(max_tokens=70, seed=index), objective, salts=salts)
        machine.requests[index] = request
        machine.outputs[index] = []
        machine.scheduler.add(request)
    machine.teardown()
