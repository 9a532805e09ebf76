"""Tiles run together that lie at constant distances, and few calls are enough."""

from __future__ import annotations

import random

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.plan import Rows, build_plan
from ops.attention import AttentionStep, Geometry, Plan, prepare
from ops.cpu_runs import Piece, Shape, split_into_runs

GEOMETRY = Geometry(2, 4, 32, 64, 64 * 256, torch.float32, 0.2, 4)
"""Extents are of 4 blocks."""


def pieces_at(slots: list[int | None]) -> list[Piece]:
    return [Piece(row, 0, [], row, slot) for row, slot in enumerate(slots)]


def runs_at(slots: list[int | None], rows: int = 1) -> list[list[int | None]]:
    runs = split_into_runs(Shape(192, True, rows), pieces_at(slots), GEOMETRY)
    return [[piece.slot for piece in run] for run in runs]


@settings(deadline=None)
@given(st.lists(st.none() | st.integers(0, 40), max_size=40), st.sampled_from([1, 40]))
def test_every_piece_is_in_one_run_and_one_run_at_most_is_gathered(
    slots: list[int | None], rows: int
) -> None:
    runs = runs_at(slots, rows)
    assert sorted((slot is None, slot or 0) for run in runs for slot in run) == sorted(
        (slot is None, slot or 0) for slot in slots
    )
    scattered = [run for run in runs if len(set(np.diff([-1 if s is None else s for s in run]))) > 1]
    assert len(scattered) <= 1
    assert len([run for run in runs if None in run]) <= 1


def test_a_dense_set_of_extents_in_any_order_is_one_run() -> None:
    slots: list[int | None] = [256 * extent for extent in range(1, 60)]
    random.Random(1).shuffle(slots)
    assert runs_at(slots) == [sorted(slots, key=lambda slot: slot or 0)]


def test_what_is_left_of_a_run_makes_another() -> None:
    assert runs_at([256, 512, 768, 1024, 2560, 5120, 7680]) == [[256, 512, 768, 1024], [2560, 5120, 7680]]


def test_tall_tiles_stay_in_the_order_of_their_rows() -> None:
    """Their queries are then read in place."""
    assert runs_at([512, 256, 768, 1280], rows=64) == [[512], [256, 768, 1280]]


def attend(chunks: list[int], positions: list[int], pool: torch.Tensor) -> tuple[AttentionStep, torch.Tensor]:
    """A row each of sequences that have one chunk, in these extents. Its query depends on the extent alone."""
    rows = [
        Rows(at, 1, [4 * chunk + block for block in range(at // 64 + 1)])
        for chunk, at in zip(chunks, positions, strict=True)
    ]
    plan = build_plan(rows, 64, share=True)
    arrays = Plan(plan.tiles, plan.pages, plan.merge_offsets, plan.merge_parts, np.array(positions))
    queries = GEOMETRY.query_buffer(len(rows))
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(64, GEOMETRY.query_width, generator=generator)
    queries[: len(rows) * GEOMETRY.query_width] = table[chunks].flatten()
    step = prepare(arrays, GEOMETRY, len(rows))
    return step, step.run(queries, pool)


def test_a_row_comes_to_the_same_wherever_its_tile_is_in_a_call() -> None:
    generator = torch.Generator().manual_seed(1)
    pool = torch.randn(8, GEOMETRY.num_slots, 32, generator=generator)
    rng = random.Random(2)
    positions = {chunk: rng.choice([130, 150, 191, 250]) for chunk in range(1, 30)}
    alone = {chunk: attend([chunk], [at], pool)[1][0] for chunk, at in positions.items()}
    for count in (2, 5, 16, 29):
        chunks = rng.sample(sorted(positions), count)
        _, among = attend(chunks, [positions[chunk] for chunk in chunks], pool)
        for row, chunk in zip(among, chunks, strict=True):
            assert torch.equal(row, alone[chunk])


def test_sequences_in_extents_are_read_in_place() -> None:
    pool = torch.randn(8, GEOMETRY.num_slots, 32)
    step, _ = attend([5, 3, 4, 2, 6], [150, 140, 130, 191, 160], pool)
    assert [call.tiles for call in step.calls] == [5]
    assert step.calls[0].key_view.pages is None
