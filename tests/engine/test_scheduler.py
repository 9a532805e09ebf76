"""What a step consists of: one case per promise of BatchScheduler."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from engine.batch import ScheduledBatch
from engine.budget import MAX_SHARES, MIN_SPECULATIVE
from engine.limits import Limits
from engine.scheduler import BatchScheduler
from engine.types import Generate, Hint, Objective, Salt, SamplingParams, TokenDelta, Urgency, Warm
from tests.engine.paged_runner import PagedRunner, expected_tokens

VOCAB = 1000

LIMITS = Limits(
    num_blocks=257,
    block_size=64,
    max_model_len=4096,
    max_num_seqs=64,
    max_num_batched_tokens=512,
    vocab_size=VOCAB,
)


@dataclass
class Engine:
    """A scheduler and a runner that reads what it is told to."""

    limits: Limits = LIMITS
    deltas: dict[int, list[TokenDelta]] = field(default_factory=dict)
    batches: list[ScheduledBatch] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = BatchScheduler(self.limits)
        self.runner = PagedRunner(
            self.limits.num_blocks, self.limits.block_size, self.limits.max_model_len, VOCAB
        )

    def add(
        self,
        request_id: int,
        prompt: list[int],
        max_tokens: int = 5,
        urgency: Urgency = Urgency.LATENCY,
        key: tuple[int, ...] = (),
        salts: tuple[Salt, ...] = (),
        application: int | None = None,
    ) -> None:
        sampling = SamplingParams(max_tokens=max_tokens, seed=request_id)
        self.scheduler.add(
            Generate(
                request_id,
                tuple(prompt),
                sampling,
                Objective(urgency),
                key=key,
                salts=salts,
                application=request_id if application is None else application,
            )
        )

    def step(self, now: float = 0.0) -> ScheduledBatch | None:
        batch = self.scheduler.schedule(now)
        if batch is None:
            self._keep(self.scheduler.take_deltas())
        else:
            self.batches.append(batch)
            self._keep(self.scheduler.commit(self.runner.run(batch)))
        self.scheduler.check_invariants()
        return batch

    def run(self) -> None:
        while self.scheduler.has_work:
            self.step()

    def _keep(self, deltas: list[TokenDelta]) -> None:
        for delta in deltas:
            self.deltas.setdefault(delta.id, []).append(delta)
            if delta.finish_reason is not None:
                self.finished.append(delta.id)

    def tokens(self, request_id: int) -> list[int]:
        return [token for delta in self.deltas[request_id] for token in delta.token_ids]

    def cached(self, request_id: int) -> int:
        (cached,) = {delta.cached_tokens for delta in self.deltas[request_id]}
        return cached

    def last(self, request_id: int) -> TokenDelta:
        return self.deltas[request_id][-1]


def prompt(length: int, seed: int = 1) -> list[int]:
    return [(i * 7 + i // 11 + seed * 13) % VOCAB for i in range(length)]


def test_sixty_four_requests_at_once_compute_their_common_prefix_once() -> None:
    engine = Engine()
    prefix = prompt(1024)
    for index in range(64):
        engine.add(index, [*prefix, index, 7], max_tokens=3)
    engine.run()
    assert engine.runner.num_computed == 1024 + 64 * 2 + 64 * 2
    assert engine.cached(0) == 0
    assert {engine.cached(index) for index in range(1, 64)} == {1024}


def test_a_common_prefix_that_ends_inside_a_block_is_computed_once() -> None:
    engine = Engine()
    prefix = prompt(1000)
    for index in range(8):
        engine.add(index, [*prefix, index, 7], max_tokens=1)
    engine.run()
    assert engine.runner.num_computed == 1002 + 7 * 2
    assert {engine.cached(index) for index in range(1, 8)} == {1000}


def test_those_who_share_a_prefix_that_ends_inside_a_block_wait_for_one_of_them_only() -> None:
    engine = Engine()
    for index in range(16):
        engine.add(index, [*prompt(300), *prompt(8, seed=index + 2)], max_tokens=1)
    steps = 0
    while engine.step() is not None:
        steps += 1
    assert steps == 2


@pytest.mark.parametrize("length", [5, 64, 70, 128, 700])
def test_choices_of_one_prompt_compute_it_once_but_for_the_last_token(length: int) -> None:
    engine = Engine()
    for index in range(4):
        engine.add(index, prompt(length), max_tokens=4)
    engine.run()
    assert engine.runner.num_computed == length + 3 + 3 * (1 + 3)
    assert {engine.cached(index) for index in range(1, 4)} == {length - 1}
    for index in range(4):
        sampling = SamplingParams(max_tokens=4, seed=index)
        assert engine.tokens(index) == expected_tokens(prompt(length), sampling, VOCAB, 4096)[0]


def test_another_salt_shares_nothing() -> None:
    engine = Engine()
    for index in range(3):
        engine.add(index, prompt(200), salts=(Salt(0, bytes([index])),))
    engine.run()
    assert [engine.cached(index) for index in range(3)] == [0, 0, 0]


def test_a_public_prefix_is_shared_and_what_follows_is_not() -> None:
    engine = Engine()
    for index in range(3):
        engine.add(index, prompt(200), salts=(Salt(0, b""), Salt(100, bytes([index]))))
    engine.run()
    assert [engine.cached(index) for index in range(3)] == [0, 100, 100]


def test_what_was_generated_is_found_by_who_continues_it() -> None:
    engine = Engine()
    engine.add(1, prompt(100), max_tokens=60)
    engine.run()
    engine.add(2, prompt(100) + engine.tokens(1) + [5, 6])
    engine.run()
    assert engine.cached(2) == 159  # the last token's KV was never computed


def test_decode_rows_come_first_and_prefill_fills_the_budget() -> None:
    engine = Engine()
    engine.add(1, prompt(10), max_tokens=50)
    engine.step()
    engine.add(2, prompt(1000, seed=2))
    batch = engine.step()
    assert batch is not None
    assert sorted(rows.length for rows in batch.sequences) == [1, 511]


def test_a_request_that_can_never_run_ends_alone_with_the_number_and_the_flag() -> None:
    engine = Engine(replace(LIMITS, num_blocks=9))
    engine.add(1, prompt(5000))
    engine.add(2, prompt(600))
    engine.add(3, [])
    engine.add(4, [VOCAB])
    engine.add(5, prompt(10))
    engine.run()
    errors = [engine.last(request).error or "" for request in (1, 2, 3, 4)]
    assert "4096 tokens (--max-model-len)" in errors[0]
    assert "512 tokens (--kv-cache-memory)" in errors[1]
    assert "empty" in errors[2]
    assert "0..999" in errors[3]
    assert engine.last(5).finish_reason == "length"


def test_a_sequence_ends_where_the_context_ends() -> None:
    engine = Engine(replace(LIMITS, max_model_len=100))
    engine.add(1, prompt(90), max_tokens=1000)
    engine.run()
    assert len(engine.tokens(1)) == 10
    assert engine.last(1).finish_reason == "length"


def test_a_stop_token_ends_it_and_is_not_among_its_tokens() -> None:
    engine = Engine()
    free, _ = expected_tokens(prompt(10), SamplingParams(max_tokens=9, seed=3), VOCAB, 4096)
    sampling = SamplingParams(max_tokens=9, seed=3, eos_token_ids=(free[4],))
    engine.scheduler.add(Generate(1, tuple(prompt(10)), sampling))
    engine.run()
    assert engine.tokens(1) == free[:4]
    assert (engine.last(1).finish_reason, engine.last(1).stop_token_id) == ("stop", free[4])


def test_ignored_eos_is_a_token_like_others() -> None:
    engine = Engine()
    free, _ = expected_tokens(prompt(10), SamplingParams(max_tokens=9, seed=3), VOCAB, 4096)
    sampling = SamplingParams(max_tokens=9, seed=3, eos_token_ids=(free[4],), ignore_eos=True)
    engine.scheduler.add(Generate(1, tuple(prompt(10)), sampling))
    engine.run()
    assert engine.tokens(1) == free


def test_what_was_generated_in_an_earlier_life_counts_and_is_not_reported_again() -> None:
    engine = Engine()
    free, _ = expected_tokens(prompt(10), SamplingParams(max_tokens=9, seed=3), VOCAB, 4096)
    request = Generate(1, (*prompt(10), *free[:4]), SamplingParams(max_tokens=9, seed=3), num_generated=4)
    engine.scheduler.add(request)
    engine.run()
    assert engine.tokens(1) == free[4:]
    assert engine.batches[0].installs[0].output_ids == tuple(free[:4])


def test_the_smallest_key_of_the_most_urgent_class_goes_first() -> None:
    engine = Engine(replace(LIMITS, max_num_seqs=1))
    engine.add(1, prompt(5), urgency=Urgency.THROUGHPUT, key=(0,))
    engine.add(2, prompt(5), key=(9,))
    engine.add(3, prompt(5), key=(2, 5))
    engine.add(4, prompt(5), key=(2, 4))
    ended: list[int] = []
    while engine.scheduler.has_work:
        engine.step()
        ended += [i for i, deltas in engine.deltas.items() if deltas[-1].finish_reason and i not in ended]
    assert ended == [4, 3, 2, 1]


@pytest.mark.parametrize(
    ("disabled", "application", "paused"), [((), 1, True), (("pausing",), 1, False), ((), 3, False)]
)
def test_on_a_full_engine_an_earlier_application_takes_a_slot_and_who_gives_way_loses_nothing(
    disabled: tuple[str, ...], application: int, paused: bool
) -> None:
    """A newcomer (3) that is earlier in the order, because it is shorter, pauses nobody."""
    engine = Engine(replace(LIMITS, max_num_seqs=1, disabled=frozenset(disabled)))
    late, early = prompt(100, 1), prompt(100, 2)
    engine.add(1, late, max_tokens=6, key=(2,), application=2)
    engine.step()
    engine.step()
    engine.add(2, early, max_tokens=2, key=(1,), application=application)
    engine.run()
    sampling = SamplingParams(max_tokens=6, seed=1)
    assert engine.tokens(1) == expected_tokens(late, sampling, VOCAB, 4096)[0]
    started = [install.prompt_ids[0] for batch in engine.batches for install in batch.installs]
    assert started == ([late[0], early[0], late[0]] if paused else [late[0], early[0]])
    computed = sum(sequence.length for batch in engine.batches for sequence in batch.sequences)
    assert computed == 100 + 5 + 100 + 1, "nothing is computed twice"


def test_a_later_get_moves_a_waiting_request_to_the_front() -> None:
    engine = Engine(replace(LIMITS, max_num_seqs=1))
    for index in (1, 2, 3):
        engine.add(index, prompt(5, seed=index), urgency=Urgency.THROUGHPUT, key=(index,))
    engine.step()
    engine.scheduler.reprioritise(3, Objective(Urgency.LATENCY), (0,))
    engine.step()
    running = [s.id for s in engine.scheduler.sequences() if s.slot is not None]
    assert running == [3], "a less urgent class gives up its slot"
    engine.run()
    assert [len(engine.tokens(index)) for index in (1, 2, 3)] == [5, 5, 5]


def test_aborting_frees_blocks_at_the_next_step_boundary_and_reports_nothing() -> None:
    engine = Engine(replace(LIMITS, disabled=frozenset({"prefix-cache"})))
    engine.add(1, prompt(300), max_tokens=100)
    engine.step()
    before = len(engine.deltas[1])
    engine.scheduler.abort(1)
    engine.scheduler.abort(99)
    assert engine.scheduler.tables.pool.num_free == 256
    assert not engine.scheduler.has_work
    assert len(engine.deltas[1]) == before


def test_of_a_warm_that_is_called_off_it_is_told_how_far_it_came() -> None:
    engine = Engine()
    engine.scheduler.add(Warm(1, tuple(prompt(2000))))
    engine.step()
    engine.scheduler.abort(1)
    engine.step()
    last = engine.last(1)
    assert (last.finish_reason, last.cached_tokens) == ("abort", 0)
    assert 0 < last.computed_tokens < 2000
    engine.scheduler.add(Warm(2, tuple(prompt(2000))))
    engine.run()
    assert engine.last(2).cached_tokens == last.computed_tokens
    assert engine.last(2).computed_tokens == 2000


def test_when_the_owner_of_a_block_goes_the_next_one_computes() -> None:
    engine = Engine()
    for index in range(3):
        engine.add(index, prompt(2000))
    engine.step()
    assert engine.scheduler.num_running == 1
    engine.scheduler.abort(0)
    engine.run()
    assert engine.cached(1) == 512
    assert engine.cached(2) == 1999
    assert engine.runner.num_computed == 2000 + 4 + 1 + 4


def test_the_owner_of_a_block_runs_in_the_order_of_who_waits_for_it() -> None:
    engine = Engine()
    engine.add(1, prompt(2000), urgency=Urgency.THROUGHPUT)
    engine.step()
    engine.add(2, prompt(2000))
    engine.add(3, prompt(900, seed=5), key=(1,))
    engine.step()
    lengths = {rows.slot: rows.length for rows in engine.batches[-1].sequences}
    assert lengths == {0: 512}, (
        "what a latency-sensitive one waits for goes before the next latency-sensitive one"
    )
    engine.run()
    assert engine.cached(2) == 1999


def test_preemption_takes_the_worst_and_loses_nothing() -> None:
    engine = Engine(replace(LIMITS, num_blocks=8))
    for index in range(3):
        engine.add(index, prompt(100, seed=index), max_tokens=150, key=(index,))
    preempted = []
    while engine.scheduler.has_work:
        engine.step()
        preempted.append(engine.scheduler.counts.num_preemptions)
    assert sum(preempted) > 0
    for index in range(3):
        sampling = SamplingParams(max_tokens=150, seed=index)
        assert engine.tokens(index) == expected_tokens(prompt(100, seed=index), sampling, VOCAB, 448)[0]


def test_a_warm_fills_the_cache_and_says_so_without_tokens() -> None:
    engine = Engine()
    engine.scheduler.add(Warm(1, tuple(prompt(300))))
    engine.run()
    assert engine.last(1).finish_reason == "stop"
    assert engine.tokens(1) == []
    engine.add(2, prompt(300))
    engine.scheduler.add(Warm(3, tuple(prompt(300))))
    engine.run()
    assert engine.cached(2) == 299
    assert engine.runner.num_computed == 300 + 1 + 4


def test_speculative_prefill_takes_a_small_share_of_a_step_and_makes_way() -> None:
    engine = Engine(replace(LIMITS, num_blocks=9))
    engine.add(1, prompt(250), max_tokens=80)
    engine.step()
    engine.scheduler.add(Warm(2, tuple(prompt(250, seed=2))))
    batch = engine.step()
    assert batch is not None
    assert sorted(rows.length for rows in batch.sequences) == [1, MIN_SPECULATIVE]
    engine.add(3, prompt(200, seed=3))
    engine.run()
    assert engine.last(2).finish_reason == "abort"
    assert engine.last(3).finish_reason == "length"


def test_a_long_warm_waits_until_it_is_alone_where_its_share_of_a_step_is_small() -> None:
    engine = Engine(replace(LIMITS, num_blocks=40, max_model_len=1024))
    engine.add(1, prompt(20), max_tokens=20)
    engine.step()
    engine.scheduler.add(Warm(2, tuple(prompt(MIN_SPECULATIVE * MAX_SHARES + 1, seed=2))))
    for _ in range(19):
        batch = engine.step()
        assert batch is not None
        assert len(batch.sequences) == 1
    engine.run()
    assert engine.last(2).finish_reason == "stop"


def test_a_warm_that_waited_too_long_is_dropped() -> None:
    engine = Engine(replace(LIMITS, max_num_seqs=1))
    engine.scheduler.add(Warm(1, tuple(prompt(50)), ttl_s=5.0), now=10.0)
    assert engine.step(now=16.0) is None
    assert engine.last(1).finish_reason == "abort"


def test_a_hint_is_a_priority_and_never_a_pin() -> None:
    engine = Engine(replace(LIMITS, num_blocks=9))
    engine.add(1, prompt(127, seed=1), max_tokens=2)
    engine.add(2, prompt(127, seed=2), max_tokens=2)
    engine.run()
    engine.scheduler.hint(Hint(tuple(prompt(127, seed=1)), next_use=100))
    engine.add(3, prompt(320, seed=3), max_tokens=1)
    engine.run()
    matched = [
        engine.scheduler.tables.tree.match(prompt(127, seed=i), (), 127).num_tokens(64) for i in (1, 2)
    ]
    assert matched[0] == 127
    assert matched[1] < 127
    engine.add(4, prompt(500, seed=4), max_tokens=1)
    engine.run()
    assert engine.last(4).finish_reason == "length"


def test_without_chunked_prefill_a_prompt_is_computed_in_one_step() -> None:
    engine = Engine(replace(LIMITS, disabled=frozenset({"chunked-prefill"})))
    for index in range(3):
        engine.add(index, prompt(700, seed=index), max_tokens=2)
    engine.run()
    prefills = [rows.length for batch in engine.batches for rows in batch.sequences if rows.token_ids]
    assert prefills == [700, 700, 700]


def test_without_the_prefix_cache_everybody_computes_everything() -> None:
    engine = Engine(replace(LIMITS, disabled=frozenset({"prefix-cache"})))
    for index in range(3):
        engine.add(index, prompt(300), max_tokens=2)
    engine.run()
    assert engine.runner.num_computed == 3 * 301


def test_without_dedup_those_who_arrive_together_compute_apart() -> None:
    engine = Engine(replace(LIMITS, disabled=frozenset({"in-flight-dedup"})))
    for index in range(2):
        engine.add(index, prompt(200), max_tokens=2)
    engine.run()
    assert engine.cached(1) == 0


def test_sequences_with_common_pages_are_neighbours() -> None:
    engine = Engine()
    for index in range(8):
        engine.add(index, [*prompt(600, seed=index % 2), index], max_tokens=4)
    engine.run()
    assert max(batch.plan.shared_keys for batch in engine.batches) == 2 * 3 * 512


def test_steady_decoding_reuses_its_plan_until_a_block_is_full() -> None:
    engine = Engine()
    engine.add(1, prompt(10), max_tokens=100)
    engine.run()
    plans = {id(batch.plan) for batch in engine.batches}
    assert len(plans) == 1 + 2  # the prefill; the first block; the second


def test_a_step_may_be_scheduled_before_the_one_before_it_is_committed() -> None:
    engine = Engine()
    engine.add(1, prompt(10), max_tokens=3)
    first = engine.scheduler.schedule()
    second = engine.scheduler.schedule()
    third = engine.scheduler.schedule()
    assert first is not None
    assert second is not None
    assert third is not None
    assert engine.scheduler.schedule() is None, "no more than it may generate"
    deltas = [engine.scheduler.commit(engine.runner.run(batch)) for batch in (first, second, third)]
    tokens = [token for step in deltas for delta in step for token in delta.token_ids]
    assert tokens == expected_tokens(prompt(10), SamplingParams(max_tokens=3, seed=1), VOCAB, 4096)[0]
    assert not engine.scheduler.has_work


def test_a_batch_that_fails_is_taken_apart_until_the_culprit_is_found() -> None:
    engine = Engine()
    for index in range(5):
        engine.add(index, prompt(100, seed=index), max_tokens=20)
    engine.step()
    engine.step()
    engine.runner.poison.add(3)
    failures = 0
    while engine.scheduler.has_work:
        batch = engine.scheduler.schedule()
        assert batch is not None
        try:
            engine._keep(engine.scheduler.commit(engine.runner.run(batch)))
        except RuntimeError as error:
            failures += 1
            engine._keep(engine.scheduler.fail(batch.step_id, str(error)))
        engine.scheduler.check_invariants()
    assert failures == 2
    assert engine.last(3).error == "poisoned"
    for index in (0, 1, 2, 4):
        sampling = SamplingParams(max_tokens=20, seed=index)
        assert engine.tokens(index) == expected_tokens(prompt(100, seed=index), sampling, VOCAB, 4096)[0]


def test_a_sequence_whose_sample_failed_fails_alone() -> None:
    engine = Engine()
    for index in range(2):
        engine.add(index, prompt(10, seed=index))
    batch = engine.scheduler.schedule()
    assert batch is not None
    results = engine.runner.run(batch)
    broken = replace(results.tokens[0], error="no finite logits")
    deltas = engine.scheduler.commit(replace(results, tokens=(broken, *results.tokens[1:])))
    assert sorted((delta.finish_reason or "", delta.error) for delta in deltas) == [
        ("", None),
        ("error", "no finite logits"),
    ]


def test_an_id_is_used_by_one_live_request() -> None:
    engine = Engine()
    engine.add(1, prompt(10))
    with pytest.raises(ValueError, match="request 1"):
        engine.add(1, prompt(10))


def test_the_first_token_says_how_long_the_request_waited_for_its_first_step() -> None:
    engine = Engine(replace(LIMITS, max_num_seqs=1))
    for index in (1, 2):
        request = Generate(index, tuple(prompt(10, seed=index)), SamplingParams(max_tokens=2, seed=index))
        engine.scheduler.add(request, now=10.0)
    for now in (10.5, 11.0, 12.0, 13.0):
        engine.step(now)
    assert [delta.queue_ms for delta in engine.deltas[1]] == [pytest.approx(500.0), None]
    assert [delta.queue_ms for delta in engine.deltas[2]] == [pytest.approx(2000.0), None]


@pytest.mark.parametrize("toggle", ["kept-output", "none"])
def test_what_was_generated_is_found_by_who_continues_it_unless_that_is_off(toggle: str) -> None:
    engine = Engine(replace(LIMITS, disabled=frozenset({toggle})))
    engine.add(1, prompt(100), max_tokens=100)
    engine.run()
    engine.add(2, [*prompt(100), *engine.tokens(1), 7, 8], max_tokens=1)
    engine.run()
    assert engine.cached(2) == (100 if toggle == "kept-output" else 199)


def test_what_only_fills_the_cache_is_not_told_as_waiting() -> None:
    engine = Engine(replace(LIMITS, max_num_seqs=1))
    engine.add(1, prompt(40), max_tokens=8)
    engine.scheduler.add(Warm(2, tuple(prompt(300, 2))))
    engine.scheduler.add(Warm(3, tuple(prompt(300, 3))))
    engine.step()
    assert engine.scheduler.num_waiting == 0
    engine.add(4, prompt(40, 4))
    assert engine.scheduler.num_waiting == 1
    engine.run()
    assert engine.scheduler.num_waiting == 0
