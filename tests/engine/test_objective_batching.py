"""Limits on the time of a step: what is left out of it, what never is, and that nobody is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from engine.batch import ScheduledBatch
from engine.budget import MIN_SPECULATIVE, SPECULATIVE_SHARE
from engine.limits import Limits
from engine.pace import CREDIT, FLOOR, MIN_PREFILL
from engine.scheduler import BatchScheduler
from engine.types import Generate, Objective, SamplingParams, Urgency, Warm
from tests.engine.paged_runner import PagedRunner, expected_tokens

VOCAB = 1000
BASE_MS, SEQUENCE_MS, KEY_MS, PREFILL_MS = 4.0, 0.5, 0.001, 0.05

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
    """A scheduler, a runner, and the time that its steps would take on some machine."""

    limits: Limits = LIMITS
    outputs: dict[int, list[int]] = field(default_factory=dict)
    requests: dict[int, Generate] = field(default_factory=dict)
    history: list[tuple[ScheduledBatch, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = BatchScheduler(self.limits)
        self.runner = PagedRunner(
            self.limits.num_blocks, self.limits.block_size, self.limits.max_model_len, VOCAB
        )

    def add(self, request_id: int, length: int, max_tokens: int, objective: Objective) -> None:
        prompt = tuple((i * 7 + i // 11 + request_id * 13) % VOCAB for i in range(length))
        request = Generate(request_id, prompt, SamplingParams(max_tokens, seed=request_id), objective)
        self.requests[request_id], self.outputs[request_id] = request, []
        self.scheduler.add(request)

    def step(self) -> float:
        batch = self.scheduler.schedule()
        assert batch is not None
        for delta in self.scheduler.commit(self.runner.run(batch)):
            self.outputs[delta.id].extend(delta.token_ids)
        keys = sum(rows.start + rows.length for rows in batch.sequences) - batch.plan.shared_keys
        prefill = sum(rows.length for rows in batch.sequences if rows.token_ids is not None)
        step_ms = BASE_MS + SEQUENCE_MS * len(batch.sequences) + KEY_MS * keys + PREFILL_MS * prefill
        self.scheduler.observe(step_ms)
        self.scheduler.check_invariants()
        self.history.append((batch, step_ms))
        return step_ms

    def run(self) -> None:
        while self.scheduler.has_work:
            self.step()

    def until(self, request_id: int) -> Iterator[tuple[ScheduledBatch, float]]:
        """Steps up to the end of a request."""
        wanted = self.requests[request_id].sampling.max_tokens
        while len(self.outputs[request_id]) < wanted:
            self.step()
            yield self.history[-1]

    def slot(self, request_id: int) -> int | None:
        return next(s.slot for s in self.scheduler.sequences() if s.id == request_id)

    def check_outputs(self) -> None:
        for request in self.requests.values():
            wanted = expected_tokens(request.token_ids, request.sampling, VOCAB, 4096)[0]
            assert self.outputs[request.id] == wanted


def batch_work(engine: Engine, count: int = 24, max_tokens: int = 120) -> None:
    """Throughput-class requests that decode: together 20 ms a step."""
    for index in range(100, 100 + count):
        engine.add(index, 64, max_tokens, Objective(Urgency.THROUGHPUT))
    for _ in range(12):
        engine.step()


def chat(limit_ms: float | None) -> Objective:
    return Objective(Urgency.LATENCY, limit_ms)


def test_batch_work_gets_what_the_limit_of_a_chat_leaves() -> None:
    engine = Engine()
    batch_work(engine)
    assert engine.history[-1][1] > 16.0
    engine.add(1, 64, 100, chat(12.0))
    times = [step_ms for _, step_ms in engine.until(1)][2:]
    assert 11.0 < sum(times) / len(times) <= 12.0, "no more, and all of that"
    assert max(times) <= 12.0 * (1 + CREDIT)
    engine.run()
    engine.check_outputs()


def test_with_the_toggle_off_a_limit_is_ignored() -> None:
    engine = Engine(replace(LIMITS, disabled=frozenset({"objective-batching"})))
    batch_work(engine)
    engine.add(1, 64, 20, chat(12.0))
    assert min(step_ms for _, step_ms in engine.until(1)) > 16.0


def test_a_paused_sequence_keeps_its_slot_and_its_blocks() -> None:
    engine = Engine()
    batch_work(engine)
    engine.add(1, 64, 20, chat(8.0))
    slots = {index: engine.slot(index) for index in range(100, 124)}
    for _ in engine.until(1):
        assert engine.scheduler.counts.num_preemptions == 0
    assert {index: engine.slot(index) for index in slots} == slots
    engine.run()
    assert engine.runner.num_computed == 24 * (64 + 119) + 64 + 19, "nothing is computed twice"
    engine.check_outputs()


def test_a_limit_that_cannot_be_met_pauses_no_chat_and_leaves_batch_work_its_floor() -> None:
    engine = Engine()
    batch_work(engine, max_tokens=30)
    for index in (1, 2, 3):
        engine.add(index, 64, 40, chat(0.5))
    for _ in range(3):
        engine.step()
    chats = {engine.slot(index) for index in (1, 2, 3)}
    others, times = 0, []
    for batch, step_ms in engine.until(1):
        slots = {rows.slot for rows in batch.sequences}
        assert chats <= slots or engine.scheduler.num_running < 27
        others += len(slots - chats)
        times.append(step_ms)
    alone, row = BASE_MS + 3 * (SEQUENCE_MS + 0.12), SEQUENCE_MS + 0.12
    assert others * row / len(times) == pytest.approx(alone * FLOOR, rel=0.2)
    assert sum(times) / len(times) < alone * (1 + FLOOR) * 1.05
    engine.run()
    engine.check_outputs()


def test_prefill_of_batch_work_is_cut_to_what_fits() -> None:
    engine = Engine()
    engine.add(1, 64, 80, chat(12.0))
    for _ in range(10):
        engine.step()
    engine.add(2, 1000, 3, Objective(Urgency.THROUGHPUT))
    prefills = []
    while not engine.outputs[2]:
        step_ms = engine.step()
        prefills.append(sum(rows.length for rows in engine.history[-1][0].sequences) - 1)
        if len(prefills) > 3:
            assert step_ms <= 12.0 * (1 + CREDIT)
    assert max(prefills[1:]) < 300
    assert sum(prefills) == 1000
    engine.run()
    engine.check_outputs()


def test_another_chats_prompt_gets_on_in_every_step_and_is_cut_too() -> None:
    engine = Engine()
    engine.add(1, 64, 60, chat(5.0))
    for _ in range(10):
        engine.step()
    engine.add(2, 400, 3, chat(5.0))
    lengths = []
    while not engine.outputs[2]:
        engine.step()
        lengths.append([rows.length for rows in engine.history[-1][0].sequences if rows.token_ids])
    assert all(lengths)
    assert lengths[0][0] < 2 * MIN_PREFILL, "what the first chat had left over"
    assert {length for step in lengths[1:-1] for length in step} == {MIN_PREFILL}
    engine.run()
    engine.check_outputs()


def test_a_limit_counts_from_the_first_token_on() -> None:
    engine = Engine()
    engine.add(1, 1000, 4, chat(0.1))
    engine.step()
    assert [rows.length for rows in engine.history[-1][0].sequences] == [512]


def test_a_limit_of_something_that_is_not_urgent_is_none() -> None:
    engine = Engine()
    batch_work(engine)
    engine.add(1, 64, 10, Objective(Urgency.THROUGHPUT, 0.1))
    assert min(len(batch.sequences) for batch, _ in list(engine.until(1))) == 25


def test_a_later_get_with_a_limit_paces_what_already_runs() -> None:
    engine = Engine()
    batch_work(engine)
    engine.scheduler.reprioritise(100, chat(12.0), ())
    engine.step()
    assert sum(engine.step() for _ in range(10)) <= 120.0
    engine.scheduler.reprioritise(100, chat(None), ())
    assert engine.step() > 16.0


@pytest.mark.parametrize("disabled", [frozenset[str](), frozenset({"objective-batching"})])
def test_without_a_limit_every_step_is_as_it_would_be_without_the_feature(disabled: frozenset[str]) -> None:
    plain, other = Engine(), Engine(replace(LIMITS, disabled=disabled))
    for engine in (plain, other):
        batch_work(engine, count=6, max_tokens=20)
        engine.add(1, 700, 20, chat(None))
        engine.add(2, 90, 20, Objective(Urgency.SPECULATIVE))
        engine.run()
    assert [batch.sequences for batch, _ in plain.history] == [batch.sequences for batch, _ in other.history]


def test_what_is_computed_ahead_takes_an_eighth_of_a_step_at_most_in_tokens_and_in_time() -> None:
    engine = Engine()
    for request_id, length in enumerate((700, 30, 900, 200)):
        engine.add(request_id, length, 20, Objective())
    while engine.scheduler.has_work:
        engine.step()
    for request_id in range(10, 18):
        engine.add(request_id, 20, 40, Objective())
    engine.step()
    ahead = []
    engine.scheduler.add(Warm(99, tuple(number * 3 % VOCAB for number in range(500))))
    for _ in range(10):
        engine.step()
        batch = engine.history[-1][0]
        ahead += [rows.length for rows in batch.sequences if rows.token_ids is not None]
    time = (BASE_MS + 8 * SEQUENCE_MS) / SPECULATIVE_SHARE / PREFILL_MS
    assert len(ahead) == 10, "it goes on in each"
    assert MIN_SPECULATIVE <= max(ahead) <= 1.3 * time < LIMITS.max_num_batched_tokens / SPECULATIVE_SHARE
