"""A plan's tiles arranged for a GPU: the same (row, key) pairs, each once, in tiles that M tiles hold."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from engine.plan import Rows, build_plan
from ops.cuda_tiles import ArrangedPlan, Int32Array, arrange

PAGE = 64


def _covered(tiles: Int32Array, pages: Int32Array) -> Counter[tuple[int, int, int]]:
    """How often each (row, first key of a page, page) is read."""
    return Counter(
        (row, first_key + i * PAGE, int(pages[page_begin + i]))
        for row_begin, row_end, page_begin, page_end, first_key, _ in tiles.tolist()
        for row in range(row_begin, row_end)
        for i in range(page_end - page_begin)
    )


def _check_merge(plan: ArrangedPlan, rows: int) -> None:
    """Every part is merged once, by its row, in ascending order of keys."""
    source = {
        part + i: (row_begin + i, first_key)
        for row_begin, row_end, _, _, first_key, part in plan.tiles_T6.tolist()
        for i in range(row_end - row_begin)
    }
    assert sorted(source) == list(range(plan.parts))
    seen = []
    for row in range(rows):
        parts = plan.merge_parts[plan.merge_offsets[row] : plan.merge_offsets[row + 1]].tolist()
        assert [source[part][0] for part in parts] == [row] * len(parts)
        keys = [source[part][1] for part in parts]
        assert keys == sorted(set(keys))
        seen += parts
    assert sorted(seen) == list(range(plan.parts))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("wanted", [0, 1, 12])
def test_arranging_changes_tiles_but_not_what_is_read(seed: int, wanted: int) -> None:
    rng = random.Random(seed)
    free = list(range(1, 4000))
    rng.shuffle(free)
    trunk = [free.pop() for _ in range(16)]
    items = []
    for _ in range(rng.randint(1, 7)):
        shared = rng.choice([0, 4, 8, 16])
        start = shared * PAGE + rng.choice([0, 1, 70, 300])
        length = rng.choice([1, 1, 1, 3, 65, 700])
        need = -(-(start + length) // PAGE) - shared
        items.append(Rows(start, length, trunk[:shared] + [free.pop() for _ in range(need)]))
    items.sort(key=lambda item: item.blocks)
    rows = sum(item.length for item in items)
    plan = build_plan(items, PAGE, share=True)
    m_rows = rng.choice([(16, 32, 64, 128), (4, 8, 16, 32), (2, 4, 9, 18), (64,)])
    arranged = arrange(plan.tiles, rows, m_rows, PAGE, wanted)
    assert _covered(arranged.tiles_T6, plan.pages) == _covered(plan.tiles, plan.pages)
    _check_merge(arranged, rows)
    assert arranged.ranges_C2[0, 0] == 0
    assert arranged.ranges_C2[-1, 1] == len(arranged.tiles_T6)
    below = 0
    for (begin, end), most in zip(arranged.ranges_C2.tolist(), m_rows, strict=True):
        sizes = arranged.tiles_T6[begin:end, 1] - arranged.tiles_T6[begin:end, 0]
        assert ((below < sizes) & (sizes <= most)).all()
        assert (np.diff(arranged.tiles_T6[begin:end, 4]) >= 0).all()
        below = most
    if not wanted:  # as the deterministic mode wants it: chunk by chunk
        assert (arranged.tiles_T6[:, 3] - arranged.tiles_T6[:, 2] <= 256 // PAGE).all()


def test_a_prefill_alone_becomes_one_part_for_most_rows() -> None:
    blocks = list(range(1, 33))
    plan = build_plan([Rows(0, 2048, blocks)], PAGE, share=True)
    arranged = arrange(plan.tiles, 2048, (4, 8, 16, 32), PAGE, 1)
    assert arranged.parts == 2048
    assert len(arranged.tiles_T6) == 64


def test_decode_rows_keep_enough_tiles_to_fill_the_gpu() -> None:
    items = [Rows(4095, 1, list(range(64 * i + 1, 64 * i + 65))) for i in range(8)]
    plan = build_plan(items, PAGE, share=True)
    assert len(plan.tiles) == 128
    assert len(arrange(plan.tiles, 8, (4, 8, 16, 32), PAGE, 30).tiles_T6) == 32


@pytest.mark.parametrize("seed", range(8))
def test_joined_parts_stay_within_the_room_that_is_made_for_them(seed: int) -> None:
    pytest.importorskip("triton")
    import torch

    from ops.cuda_attention import AttentionShape, arrange_plan, usual_parts

    rng = random.Random(seed)
    shape = AttentionShape(32, 8, 128, 64, torch.bfloat16, 1.0)
    device = torch.device("meta")
    rows, free = [], iter(range(1, 10**6))
    for _ in range(rng.choice([1, 4, 40])):
        start, length = rng.randrange(20_000), rng.choice([1, 1, 7, 512])
        rows.append(Rows(start, length, [next(free) for _ in range(-(-(start + length) // 64))]))
    plan = build_plan(rows, 64, share=True)
    count = sum(item.length for item in rows)
    assert arrange_plan(plan.tiles, count, shape, device).parts <= usual_parts(count, shape, device)
