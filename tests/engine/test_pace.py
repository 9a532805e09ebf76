"""The time of limited steps: however strict the limit, the less urgent have a floor, and what the limit leaves."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.pace import CREDIT, FLOOR, TARGET, Pace
from engine.sequence import Sequence, from_generate, from_warm
from engine.step_model import StepModel
from engine.types import Generate, Objective, SamplingParams, Urgency, Warm

STEPS = 40


def decoding(request_id: int, context: int, urgency: Urgency) -> Sequence:
    """One whose prompt is computed."""
    sampling = SamplingParams(max_tokens=STEPS + 1, seed=0)
    request = Generate(request_id, tuple(range(context)), sampling, Objective(urgency))
    sequence = from_generate(request, request_id, 10**6)
    sequence.prefill_end = sequence.num_scheduled = context
    return sequence


def row_ms(model: StepModel, sequence: Sequence) -> float:
    return model.per_sequence_ms + model.per_kv_token_ms * (sequence.num_scheduled + 1)


def beside_chats(
    limit_ms: float, chats: list[int], work: list[int], model: StepModel, steps: int = STEPS
) -> tuple[float, float]:
    """Milliseconds of `steps` steps that chats and work took, which decode with so many tokens each."""
    pace = Pace(model, 64, share=False)
    urgent = [decoding(number, context, Urgency.LATENCY) for number, context in enumerate(chats)]
    rest = [decoding(100 + number, context, Urgency.THROUGHPUT) for number, context in enumerate(work)]
    alone_ms = model.base_ms + sum(row_ms(model, each) for each in urgent)
    spent_ms = 0.0
    for _ in range(steps):
        pace.begin()
        pace.limit(limit_ms, urgent)
        pace.less_urgent()
        beside_ms = 0.0
        for each in rest:
            if not pace.allows_decode(each):
                break
            pace.spend(each, 1)
            beside_ms += row_ms(model, each)
        pace.end()
        pace.observe(limit_ms, alone_ms + beside_ms)
        spent_ms += beside_ms
    return steps * alone_ms, spent_ms


@settings(max_examples=50)
@given(
    limit_ms=st.floats(0.1, 20.0),
    chats=st.lists(st.integers(1, 20_000), min_size=1, max_size=6),
    work=st.lists(st.integers(1, 100_000), min_size=1, max_size=6),
)
def test_who_decodes_beside_chats_gets_the_floor_or_what_the_limit_leaves_and_no_more(
    limit_ms: float, chats: list[int], work: list[int]
) -> None:
    model = StepModel()
    alone_ms, spent_ms = beside_chats(limit_ms, chats, work, model)
    rows_ms = [row_ms(model, decoding(1, context, Urgency.THROUGHPUT)) for context in work]
    once_ms = max(rows_ms) + FLOOR * alone_ms / STEPS
    assert spent_ms > min(FLOOR * alone_ms, STEPS * sum(rows_ms)) - once_ms
    most_ms = FLOOR * alone_ms + max(0.0, STEPS * limit_ms * TARGET - alone_ms)
    assert spent_ms < most_ms + CREDIT * limit_ms + once_ms


def test_as_an_engine_gets_slower_batch_work_does_without_a_cliff() -> None:
    """A limit from 1.6 times what the chats take alone, down to a tenth of it."""
    model, chats, work = StepModel(), [100, 200], [300] * 64
    alone_ms = beside_chats(1.0, chats, work, model)[0] / STEPS
    limits = [alone_ms * tenths / 10 for tenths in range(16, 0, -1)]
    spent = [beside_chats(limit_ms, chats, work, model)[1] / STEPS for limit_ms in limits]
    row = row_ms(model, decoding(1, 300, Urgency.THROUGHPUT))
    for (limit_ms, more), less in zip(zip(limits, spent, strict=True), spent[1:], strict=False):
        assert -row / STEPS <= more - less <= alone_ms / 10 + row / STEPS
        assert more == pytest.approx(max(limit_ms * TARGET - alone_ms, FLOOR * alone_ms), abs=alone_ms / 20)


def test_a_row_that_takes_more_than_the_floor_comes_the_more_seldom() -> None:
    model = StepModel()
    pace, chat = Pace(model, 64, share=False), decoding(1, 100, Urgency.LATENCY)
    long = decoding(2, 60_000, Urgency.THROUGHPUT)
    came = []
    for _ in range(200):
        pace.begin()
        pace.limit(0.1, [chat])
        pace.less_urgent()
        came.append(pace.allows_decode(long))
        if came[-1]:
            pace.spend(long, 1)
        pace.end()
    floor_ms = FLOOR * (model.base_ms + row_ms(model, chat))
    assert sum(came) == pytest.approx(200 * floor_ms / row_ms(model, long), abs=1.0)


@pytest.mark.parametrize("limit_ms", [0.1, 100.0])
def test_what_is_computed_ahead_has_no_floor_and_closes_the_step_for_nobody(limit_ms: float) -> None:
    pace, chat = Pace(StepModel(), 64, share=False), decoding(1, 100, Urgency.LATENCY)
    ahead = from_warm(Warm(2, tuple(range(500))), 2, 0.0)
    batch = from_generate(
        Generate(3, tuple(range(500)), SamplingParams(2, 0), Objective(Urgency.THROUGHPUT)), 3, 10**6
    )
    pace.begin()
    pace.limit(limit_ms, [chat])
    pace.less_urgent()
    assert bool(pace.prefill_length(ahead, 0, 500, 1)) == (limit_ms == 100.0)
    assert pace.prefill_length(batch, 0, 500, 1) > 0
