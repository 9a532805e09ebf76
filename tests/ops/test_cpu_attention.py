"""Paged attention on the CPU against the reference, over random forests of sequences that share pages."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from engine.plan import Rows, build_plan
from ops import reference
from ops.attention import (
    AttentionStep,
    Geometry,
    Plan,
    PreparedSteps,
    choose_query_quantum,
    plan_of_rows,
    prepare,
)
from ops.cpu_attention import Merge

TOLERANCE = {torch.bfloat16: 1e-2, torch.float32: 1e-5}
NUM_BLOCKS = 120
HEADS = ((1, 1, 16), (2, 4, 32), (3, 2, 24), (8, 1, 64))
"""(group, KV heads, dim)"""


def _forest(rng: random.Random, block_size: int, shuffled: bool) -> list[Rows]:
    """Sequences of which some share a prefix of whole blocks, in the order a scheduler would put them."""
    free = list(range(1, NUM_BLOCKS))
    if shuffled:
        rng.shuffle(free)
    free.reverse()
    trunk = [free.pop() for _ in range(512 // block_size)]
    rows = []
    for _ in range(rng.randint(1, 6)):
        shared = rng.choice([0, 0, 256, 320, 512]) // block_size
        start = shared * block_size + rng.choice([0, 0, 1, 70])
        length = rng.choice([1, 1, 1, 2, 3, 65, 200])
        need = -(-(start + length) // block_size) - shared
        rows.append(Rows(start, length, trunk[:shared] + [free.pop() for _ in range(need)]))
    return sorted(rows, key=lambda item: item.blocks)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("group", "kv_heads", "dim", "block_size"),
    [(2, 4, 32, 16), (8, 1, 64, 16), *((*heads, 64) for heads in HEADS), (3, 2, 24, 256), (8, 1, 64, 256)],
)
def test_paged_attention_is_the_reference(
    dtype: torch.dtype, group: int, kv_heads: int, dim: int, block_size: int
) -> None:
    rng = random.Random(f"{dtype}{group}{dim}{block_size}")
    torch.manual_seed(1)
    num_slots = NUM_BLOCKS * block_size
    geometry = Geometry(group, kv_heads, dim, block_size, num_slots, dtype, dim**-0.5, 4)
    for window in (None, 1, 100, 300):
        rows = _forest(rng, block_size, shuffled=rng.random() < 0.5)
        positions = [item.start + i for item in rows for i in range(item.length)]
        slots = [
            [b * block_size + i for b in item.blocks for i in range(block_size)]
            for item in rows
            for _ in range(item.length)
        ]
        pool = torch.randn(2 * kv_heads, num_slots, dim).to(dtype)
        pool[:, :block_size] = torch.nan  # nobody reads scratch
        queries = geometry.query_buffer(len(positions))
        q = torch.randn(len(positions), group, kv_heads, dim).to(dtype)
        queries[: q.numel()] = q.flatten()
        plan = build_plan(rows, block_size, share=True)
        arrays = Plan(plan.tiles, plan.pages, plan.merge_offsets, plan.merge_parts, np.array(positions))

        found = prepare(arrays, geometry, len(positions) + 3, window).run(queries, pool)

        expected = reference.paged_attention(q, pool, slots, positions, dim**-0.5, window).flatten(1)
        assert not found.isnan().any()
        error = (found[: len(positions)].double() - expected).norm(dim=1) / expected.norm(dim=1)
        assert error.max() < TOLERANCE[dtype], float(error.max())

        some = np.array(sorted(rng.sample(range(len(positions)), rng.randint(1, len(positions)))))
        theirs = geometry.query_buffer(len(some))
        theirs[: q[some].numel()] = q[some].flatten()
        alone = prepare(plan_of_rows(arrays, some), geometry, len(some), window).run(theirs, pool)
        error = (alone.double() - expected[some]).norm(dim=1) / expected[some].norm(dim=1)
        assert error.max() < TOLERANCE[dtype], float(error.max())


def test_merged_partial_results_are_the_reference() -> None:
    outs, lses = torch.randn(7, 4, 8), torch.randn(7, 4) * 5
    absent = torch.tensor([[False] * 3, [False, False, True], [False, True, True]]).t().unsqueeze(-1)
    order = torch.tensor([0, 3, 5, 1, 4, 5, 2, 3, 5])
    found = Merge(3, order, absent).run(outs, lses)
    for row, chain in enumerate(([0, 1, 2], [3, 4], [5])):
        expected, _ = reference.merge_states(
            [outs[part].double() for part in chain], [lses[part].double() for part in chain]
        )
        assert (found[row] - expected).norm() / expected.norm() < 1e-6
    assert torch.equal(found[2], outs[5])  # a row with one part keeps it to the bit


def test_the_self_test_finds_a_query_quantum() -> None:
    before = torch.get_num_threads()
    try:
        assert choose_query_quantum(2, 64, torch.bfloat16, torch.set_num_threads, 2) in (4, 8, 16, 32)
    finally:
        torch.set_num_threads(before)


def test_a_step_that_moves_on_is_the_one_prepared_anew() -> None:
    geometry = Geometry(2, 2, 32, 64, 40 * 64, torch.float32, 0.2, 4)
    starts = np.array([70, 330, 333, 585])
    blocks = [list(range(sequence * 10 + 1, sequence * 10 + 11)) for sequence in (0, 2, 1, 3)]
    plan = build_plan([Rows(s, 1, b) for s, b in zip(starts.tolist(), blocks, strict=True)], 64, share=True)
    steps, last = PreparedSteps(geometry), None
    for moved in range(60):
        arrays = Plan(plan.tiles, plan.pages, plan.merge_offsets, plan.merge_parts, starts + moved)
        step = steps.at(arrays, 5, None)
        if last is not None:
            assert (step is last) == bool((arrays.positions % 64).all())
        _assert_same_calls(step, prepare(arrays, geometry, 5))
        last = step


def test_rows_that_jump_are_prepared_anew() -> None:
    geometry = Geometry(2, 2, 32, 64, 40 * 64, torch.float32, 0.2, 4)
    plan = build_plan([Rows(70, 1, [1, 2])], 64, share=True)
    steps = PreparedSteps(geometry)
    for position in (70, 72, 71):
        arrays = Plan(plan.tiles, plan.pages, plan.merge_offsets, plan.merge_parts, np.array([position]))
        _assert_same_calls(steps.at(arrays, 2, None), prepare(arrays, geometry, 2))


def _assert_same_calls(found: AttentionStep, expected: AttentionStep) -> None:
    for one, other in zip(found.calls, expected.calls, strict=True):
        assert (one.tiles, one.rows, one.keys) == (other.tiles, other.rows, other.keys)
        assert one.key_view.offset == other.key_view.offset
        assert (one.mask is None) == (other.mask is None)
        assert one.mask is None or (other.mask is not None and torch.equal(one.mask, other.mask))
