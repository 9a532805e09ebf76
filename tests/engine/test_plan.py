"""A plan covers exactly what each row may see, and reads shared pages once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.batch import CHUNK, AttentionPlan
from engine.plan import Rows, build_plan


def expand(plan: AttentionPlan, sequences: list[Rows], block_size: int) -> None:
    """Check by brute force: row by row, key by key."""
    num_rows = sum(rows.length for rows in sequences)
    assert len(plan.merge_offsets) == num_rows + 1
    assert plan.tiles.shape[1] == 6
    assert np.all(np.diff(plan.tiles[:, 4]) >= 0), "tiles ascend in first_key"
    positions = [rows.start + i for rows in sequences for i in range(rows.length)]
    owners = [rows for rows in sequences for _ in range(rows.length)]
    tile_of: dict[tuple[int, int], list[int]] = {}
    parts_seen: set[int] = set()
    for row_begin, row_end, page_begin, page_end, first_key, part in plan.tiles.tolist():
        assert row_begin < row_end
        assert 0 < page_end - page_begin <= CHUNK // block_size
        assert first_key % CHUNK == 0
        assert first_key <= min(positions[row_begin:row_end]), (
            "a row before the chunk has nothing to read in it"
        )
        for row in range(row_begin, row_end):
            assert part + row - row_begin not in parts_seen, "a partial slot is written twice"
            parts_seen.add(part + row - row_begin)
            tile_of[row, part + row - row_begin] = [page_begin, page_end, first_key]
    assert parts_seen == set(range(len(parts_seen))), "partial slots are dense"
    assert sorted(plan.merge_parts.tolist()) == sorted(parts_seen), "every part is merged once"
    for row in range(num_rows):
        keys: list[tuple[int, int, int]] = []
        for part in plan.merge_parts[plan.merge_offsets[row] : plan.merge_offsets[row + 1]].tolist():
            page_begin, page_end, first_key = tile_of[row, part]
            for index, page in enumerate(plan.pages[page_begin:page_end].tolist()):
                base = first_key + index * block_size
                keys.extend((base + offset, page, offset) for offset in range(block_size))
        visible = [key for key in keys if key[0] <= positions[row]]
        blocks = owners[row].blocks
        assert visible == [
            (key, blocks[key // block_size], key % block_size) for key in range(positions[row] + 1)
        ]


@st.composite
def forests(draw: st.DrawFn) -> tuple[list[Rows], int]:
    """Sequences that branch off one another at whole blocks, and write only what is their own."""
    block_size = draw(st.sampled_from([64, 128, 256]))
    tables: list[list[int]] = []
    sequences: list[Rows] = []
    fresh = iter(range(1, 10_000))
    for _ in range(draw(st.integers(1, 7))):
        shared: list[int] = []
        branches = draw(st.booleans())
        if tables and branches:
            parent = tables[draw(st.integers(0, len(tables) - 1))]
            shared = parent[: draw(st.integers(0, len(parent) - 1))]
        start = len(shared) * block_size + draw(st.integers(0, 700))
        length = draw(st.one_of(st.just(1), st.integers(1, 600)))
        needed = -(-(start + length) // block_size)
        table = shared + [next(fresh) for _ in range(needed - len(shared))]
        tables.append(table)
        sequences.append(Rows(start, length, table))
    return sorted(sequences, key=lambda rows: rows.blocks), block_size


@given(forests(), st.booleans())
@settings(max_examples=30, deadline=None)  # each compares every key of every row
def test_each_row_merges_its_keys_once_and_in_order(forest: tuple[list[Rows], int], share: bool) -> None:
    sequences, block_size = forest
    expand(build_plan(sequences, block_size, share), sequences, block_size)


@given(forests())
@settings(max_examples=60, deadline=None)
def test_sharing_saves_the_keys_it_says(forest: tuple[list[Rows], int]) -> None:
    sequences, block_size = forest
    together, apart = (build_plan(sequences, block_size, share) for share in (True, False))
    assert apart.shared_keys == 0
    pages_saved = len(apart.pages) - len(together.pages)
    assert together.shared_keys == pages_saved * block_size
    assert len(together.merge_parts) == len(apart.merge_parts)


def test_decode_rows_of_a_common_prefix_share_its_tiles() -> None:
    prefix = [1, 2, 3, 4, 5, 6, 7, 8]
    sequences = [Rows(2 * CHUNK + 5, 1, [*prefix, 10 + i]) for i in range(16)]
    plan = build_plan(sequences, 64, True)
    assert len(plan.tiles) == 2 + 16
    assert plan.tiles[0].tolist() == [0, 16, 0, 4, 0, 0]
    assert plan.shared_keys == 15 * 2 * CHUNK


def test_levels_of_sharing_nest() -> None:
    a, b, c = [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]
    tables = [[*a, *b, 20], [*a, *b, 21], [*a, *c, 22], [*a, *c, 23]]
    plan = build_plan([Rows(2 * CHUNK, 1, table) for table in tables], 64, True)
    spans = [(tile[0], tile[1], tile[4]) for tile in plan.tiles.tolist()]
    assert spans == [(0, 4, 0), (0, 2, CHUNK), (2, 4, CHUNK)] + [(i, i + 1, 2 * CHUNK) for i in range(4)]
    assert plan.shared_keys == CHUNK * 3 + CHUNK * 2


def test_a_chunk_that_is_not_wholly_common_is_not_shared() -> None:
    sequences = [Rows(CHUNK + 1, 1, [1, 2, 3, 4 + i, 10 + i]) for i in range(2)]
    assert build_plan(sequences, 64, True).shared_keys == 0


def test_a_prefill_leaves_out_the_tiles_above_the_diagonal() -> None:
    plan = build_plan([Rows(0, CHUNK + 10, [1, 2, 3, 4, 5])], 64, True)
    assert plan.tiles[:, :2].tolist() == [[0, CHUNK + 10], [CHUNK, CHUNK + 10]]
    assert plan.merge_offsets[-1] == CHUNK + 2 * 10
