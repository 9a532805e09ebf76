"""A step in one array: what kernels find in it is what the plan and the tables said."""

from __future__ import annotations

import random

import numpy as np
import pytest

from engine.batch import ScheduledBatch, ScheduledSequence
from engine.plan import Rows, build_plan
from engine.runner.device_batch import FROM_SLOT, PackedStep, RowTables, pack
from ops.cuda_tiles import ArrangedPlan, arrange

SIZE = 16
VOCAB = 100


def _batch(rng: random.Random, *, decode: bool) -> ScheduledBatch:
    sequences, rows, tables = [], [], {}
    for slot in rng.sample(range(8), rng.randint(1, 8)):
        start = rng.randint(0, 600)
        length = 1 if decode else rng.randint(1, 40)
        blocks = rng.sample(range(1, 900), -(-(start + length) // SIZE))
        ids = None if decode else tuple(rng.choices(range(VOCAB), k=length))
        sequences.append(ScheduledSequence(slot, start, length, ids, decode or rng.random() < 0.5))
        rows.append(Rows(start, length, blocks))
        tables[slot] = tuple(blocks)
    return ScheduledBatch(1, tuple(sequences), build_plan(rows, SIZE, share=True), block_tables=tables)


def _packed(batch: ScheduledBatch, bucket: int | None) -> tuple[PackedStep, ArrangedPlan, RowTables]:
    tables = RowTables(8, 64, SIZE, VOCAB)
    tables.apply(batch)
    rows = tables.rows(batch)
    arranged = arrange(batch.plan.tiles, rows.num_rows, (4, 8, 16), SIZE, 0)
    return pack(rows, arranged, batch.plan.pages, bucket), arranged, tables


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("decode", [True, False], ids=["decode", "prefill"])
def test_what_was_packed_is_found_at_its_place(seed: int, decode: bool) -> None:
    batch = _batch(random.Random(seed), decode=decode)
    bucket = 8 if decode else None
    packed, arranged, _ = _packed(batch, bucket)
    words, layout = packed.words, packed.layout
    row = 0
    for item in batch.sequences:
        assert batch.block_tables is not None
        blocks = batch.block_tables[item.slot]
        for position in range(item.start, item.start + item.length):
            given = FROM_SLOT if item.token_ids is None else item.token_ids[position - item.start]
            assert words[layout.ids + row] == given
            assert words[layout.slots + row] == item.slot
            assert words[layout.positions + row] == position
            assert words[layout.kv_slots + row] == blocks[position // SIZE] * SIZE + position % SIZE
            row += 1
    _check_plan(packed, arranged, batch)
    sampled = [item for item in batch.sequences if item.sample]
    assert packed.num_samples == len(sampled)
    positions = words[layout.sample_positions :][: 2 * len(sampled)].view(np.int64)
    assert positions.tolist() == [item.start + item.length for item in sampled]
    assert words[layout.sample_slots :][: len(sampled)].tolist() == [item.slot for item in sampled]


def _check_plan(packed: PackedStep, arranged: ArrangedPlan, batch: ScheduledBatch) -> None:
    words, layout = packed.words, packed.layout
    tiles = words[layout.tiles :][: arranged.tiles_T6.size].reshape(-1, 6)
    for tile, expected in zip(tiles, arranged.tiles_T6, strict=True):
        assert words[tile[2] : tile[3]].tolist() == batch.plan.pages[expected[2] : expected[3]].tolist()
        assert np.delete(tile, (2, 3)).tolist() == np.delete(expected, (2, 3)).tolist()
    offsets = words[layout.merge_offsets :][: layout.rows + 1]
    for row in range(layout.rows):
        found = words[offsets[row] : offsets[row + 1]].tolist()
        if row < len(arranged.merge_offsets) - 1:
            begin, end = arranged.merge_offsets[row : row + 2]
            assert found == arranged.merge_parts[begin:end].tolist()
        else:
            assert found == [], "padding merges nothing"


def test_the_regions_of_a_bucket_do_not_move_with_the_batch() -> None:
    layouts = {_packed(_batch(random.Random(seed), decode=True), 8)[0].layout for seed in range(8)}
    assert len(layouts) == 1


def test_padding_computes_token_0_into_scratch() -> None:
    batch = _batch(random.Random(3), decode=True)
    packed, _, _ = _packed(batch, 8)
    for region in (packed.layout.ids, packed.layout.positions, packed.layout.kv_slots):
        assert not packed.words[region + len(batch.sequences) : region + 8].any()


def test_logits_of_targets_come_behind_those_that_are_sampled() -> None:
    ids = (5, 6, 7)
    sequences = (
        ScheduledSequence(0, 0, 3, ids, True, ids[1:], 1),
        ScheduledSequence(1, 0, 3, ids, True),
    )
    rows = [Rows(0, 3, [1]), Rows(0, 3, [2])]
    batch = ScheduledBatch(1, sequences, build_plan(rows, SIZE, share=True), block_tables={0: (1,), 1: (2,)})
    packed, _, tables = _packed(batch, None)
    assert tables.rows(batch).logit_rows.tolist() == [2, 5, 0, 1]
    assert packed.words[packed.layout.logits :][:4].tolist() == [2, 5, 0, 1]
    assert not packed.all_logits


def test_ids_outside_the_vocabulary_are_named_by_slot_and_computed_as_0() -> None:
    sequences = (ScheduledSequence(2, 0, 3, (5, VOCAB, -7), True), ScheduledSequence(1, 5, 1, None, True))
    rows = [Rows(0, 3, [1]), Rows(5, 1, [2])]
    batch = ScheduledBatch(1, sequences, build_plan(rows, SIZE, share=True), block_tables={2: (1,), 1: (2,)})
    tables = RowTables(8, 64, SIZE, VOCAB)
    tables.apply(batch)
    found = tables.rows(batch)
    assert found.invalid == {2}
    assert found.ids.tolist() == [5, 0, 0, FROM_SLOT]
    assert not found.all_decode
