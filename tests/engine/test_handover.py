"""Who waits how long for the successor of a call that has ended."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from engine.core import EngineCore
from engine.handover import LONGEST_S, SHARE, wait_s
from engine.types import Generate, SamplingParams, Warm
from tests.engine.paged_runner import READY, PagedRunner


@pytest.mark.parametrize(
    ("num_running", "contested", "seconds"),
    [(0, False, LONGEST_S), (0, True, LONGEST_S), (3, False, 0.0), (3, True, SHARE * 0.008)],
)
def test_others_wait_only_where_somebody_would_take_the_slot_and_for_a_part_of_a_step(
    num_running: int, contested: bool, seconds: float
) -> None:
    assert wait_s(num_running, contested, 8.0) == seconds
    assert wait_s(num_running, contested, 1e6) <= LONGEST_S


def ended(
    *beside: Generate | Warm, followed: bool = True, slots: int = 64, disabled: frozenset[str] = frozenset()
) -> EngineCore:
    """An engine in which a request of three tokens has just ended."""
    runner = PagedRunner(num_blocks=33, block_size=64, max_model_len=2048, vocab_size=100)
    core = EngineCore(runner, replace(READY, max_num_seqs=slots), disabled)
    core.take(a_request(1, 3, followed=followed))
    for request in beside:
        core.take(request)
    while not any(delta.finish_reason for delta in core.step().deltas if delta.id == 1):
        pass
    return core


def a_request(request_id: int, max_tokens: int, *, followed: bool = False) -> Generate:
    sampling = SamplingParams(max_tokens, seed=request_id)
    return Generate(request_id, (1, request_id), sampling, key=(request_id,), followed=followed)


def test_the_engine_waits_when_nobody_else_runs_and_a_successor_comes() -> None:
    assert ended().handover_s == LONGEST_S
    assert ended(followed=False).handover_s == 0.0
    assert ended(disabled=frozenset({"handover"})).handover_s == 0.0


def test_who_decodes_waits_only_while_somebody_else_would_take_the_slot() -> None:
    assert ended(a_request(2, 9)).handover_s == 0.0
    assert 0.0 < ended(a_request(2, 9), a_request(3, 9), slots=2).handover_s <= LONGEST_S


def test_what_is_computed_ahead_neither_runs_nor_waits_for_anybody() -> None:
    ahead = Warm(9, tuple(number % 100 for number in range(1900)))
    assert ended(ahead).handover_s == LONGEST_S
    assert ended(a_request(2, 9), ahead).handover_s == 0.0
