"""A compiled step: what it computes is the sequences' own, whatever is in the batch and whoever helps."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from engine.plan import Rows
from ops.compiled.crew import COUNTER, OPEN
from ops.compiled.decoder import PARTS
from ops.compiled.helpers import Helpers
from tests.ops.compiled.small_decoder import BLOCK, BLOCKS, Random, Small

STEPS = 300
ALL = list(range(1, BLOCKS))


def _steps() -> list[list[Rows]]:
    """Of few and of many items: decode alone and together, a prompt of more rows than the last layer computes."""
    first, second, third = ALL[:20], ALL[20:40], ALL[40:]
    return [
        [Rows(0, 90, first)],
        [Rows(90, 1, first)],
        [Rows(91, 1, first), Rows(0, 5, second)],
        [Rows(92, 1, first), Rows(5, 1, second), Rows(0, 37, third)],
        [Rows(93, 180, first), Rows(6, 1, second), Rows(37, 1, third)],
    ]


def _run(small: Small) -> list[torch.Tensor]:
    return [small.step(rows, seed) for seed, rows in enumerate(_steps())]


@pytest.fixture(scope="module")
def expected() -> list[torch.Tensor]:
    return _run(Small())


def _check(small: Small, expected: list[torch.Tensor]) -> None:
    for found, one in zip(_run(small), expected, strict=True):
        assert torch.equal(found, one)


@contextmanager
def _busy() -> Iterator[None]:
    """A thread that wants a core all the time and leaves Python to others."""
    ended, numbers = threading.Event(), np.random.default_rng(0).random(20_000)

    def work() -> None:
        while not ended.is_set():
            np.sort(numbers)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("busy", [False, True], ids=["quiet", "busy"])
def test_threads_change_no_bit_however_often_they_meet(expected: list[torch.Tensor], busy: bool) -> None:
    small = Small(threads=3)
    with _busy() if busy else nullcontext():
        for repetition in range(STEPS // len(expected)):
            small.decoder.use_threads(3 - repetition % 3)
            _check(small, expected)


def test_helpers_that_never_come_are_not_waited_for(
    expected: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Small(threads=3)
    monkeypatch.setattr(small.decoder, "_wake", lambda count: None)
    _check(small, expected)


def test_a_helper_that_comes_when_no_step_is_open_leaves_at_once(expected: list[torch.Tensor]) -> None:
    small = Small(threads=2)
    _check(small, expected)
    late = threading.Thread(target=small.decoder.assist, args=(1,), daemon=True)
    late.start()
    late.join(5.0)
    assert not late.is_alive()


def test_memory_that_grows_while_helpers_are_awake_is_nobodys_loss(expected: list[torch.Tensor]) -> None:
    for _ in range(20):
        _check(Small(threads=3, max_rows=1), expected)


def test_a_helper_that_has_missed_the_end_of_its_step_sees_no_item_of_a_step_with_other_memory() -> None:
    small = Small(max_rows=1)
    small.step([Rows(0, 1, ALL)])
    before = small.decoder._scratch
    small.step([Rows(0, 200, ALL)])
    assert not np.shares_memory(before.board, small.decoder._scratch.board)
    assert before.board[OPEN] == 0


def test_phases_may_be_more_than_there_are_numbers_for_them(expected: list[torch.Tensor]) -> None:
    small = Small(threads=3)
    _check(small, expected)  # memory has its size
    small.decoder._scratch.board[COUNTER] = np.int64(2**23 - 30) << 40
    _check(small, expected)
    assert small.decoder._scratch.board[COUNTER] < 0


def test_as_many_logits_as_a_step_has_rows_and_more_have_room() -> None:
    rows = [Rows(0, 40, ALL[:3]), Rows(0, 30, ALL[3:6])]
    found, roomy = (Small(max_rows=most).step(rows, scored=True) for most in (1, 256))
    assert found.shape[0] == 72
    assert torch.equal(found, roomy)
    assert torch.equal(found[0], found[2 + 39])
    assert torch.equal(found[1], found[2 + 69])


def test_helpers_end_when_they_are_closed() -> None:
    before = set(threading.enumerate())
    woken = threading.Semaphore(0)
    helpers = Helpers(2, lambda number: woken.release())
    threads = set(threading.enumerate()) - before
    assert len(threads) == 2
    helpers.wake(2)
    assert all(woken.acquire(timeout=5.0) for _ in range(2))
    helpers.close()
    _join(threads)


def test_a_decoders_threads_end_with_it(expected: list[torch.Tensor]) -> None:
    before = set(threading.enumerate())
    small = Small(threads=3)
    _check(small, expected)
    threads = set(threading.enumerate()) - before
    assert len(threads) == 2
    del small
    gc.collect()
    _join(threads)


def _join(threads: set[threading.Thread]) -> None:
    for thread in threads:
        thread.join(5.0)
    assert not any(thread.is_alive() for thread in threads)


def test_nan_in_a_sequences_keys_and_values_reaches_no_other() -> None:
    small, other = Small(threads=2), Small()
    mine, theirs = ALL[:5], ALL[5:10]
    for each in (small, other):
        each.step([Rows(0, 40, mine), Rows(0, 40, theirs)])
    small.kv[:, :, theirs[0] * BLOCK : (theirs[0] + 1) * BLOCK] = torch.nan
    both = [Rows(40, 1, mine), Rows(40, 1, theirs)]
    found, expected = small.step(both), other.step(both)
    assert torch.equal(found[0], expected[0])
    assert found[1].isnan().all()


def test_a_token_whose_embedding_is_nan_spoils_its_own_sequence_alone() -> None:
    class Broken(Random):
        def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
            weight = super().get(name, shape)
            if "embed" in name:
                weight[7] = torch.nan  # the token of position 1
            return weight

    small, other = Small(Broken(rounded=False)), Small()
    both = [Rows(0, 1, ALL[:1]), Rows(0, 60, ALL[1:6])]
    found, expected = small.step(both), other.step(both)
    healthy = [token for token in range(found.shape[1]) if token != 7]  # its logit is a product with that row
    assert torch.equal(found[0, healthy], expected[0, healthy])
    assert found[1].isnan().all()


def test_bfloat16_weights_stay_and_compute_what_they_are_in_float32() -> None:
    stored = Small(Random(rounded=True, dtype=torch.bfloat16), dtype="bfloat16")
    wide = Small(Random(rounded=True))
    assert (stored.decoder.weight_bytes, wide.decoder.weight_bytes) == (2, 4)
    for found, one in zip(_run(stored), _run(wide), strict=True):
        assert torch.equal(found, one)


def test_weights_that_bfloat16_would_round_are_kept_whatever_the_config_says(
    expected: list[torch.Tensor],
) -> None:
    small = Small(dtype="bfloat16")
    assert small.decoder.weight_bytes == 4
    _check(small, expected)


def test_every_part_of_a_step_is_on_the_clock(expected: list[torch.Tensor]) -> None:
    small = Small(max_rows=1)
    assert set(small.decoder.clock.values()) == {0}
    small.step(_steps()[0])
    first = small.decoder.clock
    assert list(first) == list(PARTS)
    assert all(cycles > 0 for cycles in first.values())
    small.step([Rows(0, 200, ALL)])  # memory grows
    assert all(small.decoder.clock[part] > cycles for part, cycles in first.items())
