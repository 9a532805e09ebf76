"""From a ScheduledBatch to one array of int32 words: all that a step's kernels are told.

A step is uploaded in one copy into one buffer whose first regions lie at places that follow from the number of
rows alone. So a captured graph finds them again, and only what there is gets copied:

    | rows: ids, slots, positions, ... | merge offsets | ranges | tiles ... | pages ... | merge parts ... |
      fixed by (rows, samples)                                    as long as the step needs

Pages and merge parts move with the number of tiles: tiles and merge offsets count from the buffer's beginning.

Owns the block tables by slot (RowTables), as the host knows them. A decode row's id is -1: its token is the slot's
last sample, which is on the device and perhaps not computed yet. Leaves to others: tensors and launches.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from engine.batch import Int32Array, ScheduledBatch, ScheduledSequence
from ops.cuda_tiles import FIRST_KEY, PAGE_BEGIN, ArrangedPlan

Int64Array = npt.NDArray[np.int64]

FROM_SLOT = -1
"""In place of an id: the last sample of the row's slot."""

_ALIGN = 4  # words: Triton compiles once more for pointers that are not aligned to 16 bytes
_RANGE_WORDS = 4  # of which begin and end are used


@dataclass(frozen=True, slots=True)
class BatchRows:
    """Rows of a batch, without padding; slots, positions, kv_slots: int64 [R], ids with FROM_SLOT.

    logit_rows: whose logits are wanted: of `sampled`, then of `scored`, a row for each target.
    invalid: slots with ids that are not in the vocabulary (computed with token 0 instead).
    """

    ids: Int64Array
    slots: Int64Array
    positions: Int64Array
    kv_slots: Int64Array
    logit_rows: Int64Array
    sampled: tuple[ScheduledSequence, ...]
    scored: tuple[ScheduledSequence, ...]
    invalid: frozenset[int]

    @property
    def num_rows(self) -> int:
        return len(self.ids)

    @property
    def all_decode(self) -> bool:
        """Every row is a decode row that is sampled."""
        return len(self.sampled) == len(self.ids) and not self.scored and bool((self.ids == FROM_SLOT).all())


class RowTables:
    """Block tables by slot. Changed through `apply` alone."""

    def __init__(self, max_num_seqs: int, max_blocks: int, block_size: int, vocab_size: int) -> None:
        self._places = np.zeros((max_num_seqs, max_blocks), np.int64)
        self._blocks: list[tuple[int, ...]] = [()] * max_num_seqs
        self._block_size = block_size
        self._vocab_size = vocab_size

    def apply(self, batch: ScheduledBatch) -> None:
        """Take over the tables that changed."""
        for slot, blocks in (batch.block_tables or {}).items():
            self._places[slot, : len(blocks)] = blocks
            self._blocks[slot] = blocks

    def blocks(self, slot: int) -> tuple[int, ...]:
        """The slot's physical blocks in logical order."""
        return self._blocks[slot]

    def rows(self, batch: ScheduledBatch) -> BatchRows:
        """The rows of a batch whose tables have been applied."""
        sequences, size = batch.sequences, self._block_size
        count = len(sequences)
        starts = np.fromiter((item.start for item in sequences), np.int64, count)
        lengths = np.fromiter((item.length for item in sequences), np.int64, count)
        slots = np.repeat(np.fromiter((item.slot for item in sequences), np.int64, count), lengths)
        ends = np.cumsum(lengths)
        positions = np.arange(int(ends[-1])) + np.repeat(starts - (ends - lengths), lengths)
        ids, invalid = self._ids(sequences, len(slots), lengths)
        sampled = np.fromiter((item.sample for item in sequences), np.bool_, count)
        scored = tuple([item for item in sequences if item.targets])
        logit_rows = ends[sampled] - 1
        if scored:
            logit_rows = np.concatenate((logit_rows, _rows_of_targets(sequences, ends - lengths)))
        return BatchRows(
            ids=ids,
            slots=slots,
            positions=positions,
            kv_slots=self._places[slots, positions // size] * size + positions % size,
            logit_rows=logit_rows,
            sampled=tuple([item for item in sequences if item.sample]),
            scored=scored,
            invalid=frozenset(slots[invalid].tolist()),
        )

    def _ids(
        self, sequences: tuple[ScheduledSequence, ...], rows: int, lengths: Int64Array
    ) -> tuple[Int64Array, npt.NDArray[np.bool_]]:
        """(ids, which of them are not in the vocabulary)"""
        parts = [(FROM_SLOT,) if item.token_ids is None else item.token_ids for item in sequences]
        ids = np.fromiter(chain.from_iterable(parts), np.int64, rows)
        given = np.repeat([item.token_ids is not None for item in sequences], lengths)
        invalid = given & ((ids < 0) | (ids >= self._vocab_size))
        ids[invalid] = 0
        return ids, invalid


def _rows_of_targets(sequences: tuple[ScheduledSequence, ...], begins: Int64Array) -> Int64Array:
    pairs = zip(sequences, begins.tolist(), strict=True)
    return np.concatenate([np.arange(at, at + len(item.targets)) for item, at in pairs if item.targets])


@dataclass(frozen=True, slots=True)
class StepLayout:
    """Where regions begin in the buffer, in words: a function of three numbers."""

    rows: int
    logit_rows: int
    sample_positions: int  # int64
    sample_slots: int
    logits: int
    ids: int
    slots: int
    positions: int
    kv_slots: int
    merge_offsets: int
    ranges: int
    tiles: int


def layout_of(rows: int, samples: int, logit_rows: int, configs: int) -> StepLayout:
    """samples: sequences that are sampled; logit_rows: rows whose logits are picked out, 0 where all are."""
    sizes = (2 * samples, samples, logit_rows, rows, rows, rows, rows, rows + 1, _RANGE_WORDS * configs)
    begins = np.cumsum([0, *[size + -size % _ALIGN for size in sizes]]).tolist()
    return StepLayout(rows, logit_rows, *begins)


@dataclass(frozen=True, slots=True)
class PackedStep:
    """`words` is what goes to the device. num_tiles: of each tile configuration; num_samples: of the batch.

    all_logits: logits are wanted of all rows, in their order.
    """

    layout: StepLayout
    words: Int32Array
    num_tiles: tuple[int, ...]
    num_samples: int
    all_logits: bool


def pack(rows: BatchRows, arranged: ArrangedPlan, pages: Int32Array, bucket: int | None) -> PackedStep:
    """bucket: pad rows and samples to so many, for a graph; padding computes token 0 into scratch block 0."""
    count, samples, configs = rows.num_rows, len(rows.sampled), len(arranged.ranges_C2)
    all_logits = bucket is not None or np.array_equal(rows.logit_rows, np.arange(count))
    logit_rows = 0 if all_logits else len(rows.logit_rows)
    layout = layout_of(bucket or count, bucket or samples, logit_rows, configs)
    pages_at = layout.tiles + arranged.tiles_T6.size
    parts_at = pages_at + len(pages)
    words = np.zeros(parts_at + len(arranged.merge_parts), np.int32)
    positions = words[layout.sample_positions :][: 2 * samples].view(np.int64)
    positions[:] = [item.start + item.length for item in rows.sampled]
    words[layout.sample_slots :][:samples] = [item.slot for item in rows.sampled]
    if not all_logits:
        words[layout.logits :][:logit_rows] = rows.logit_rows
    words[layout.ids :][:count] = rows.ids
    words[layout.slots :][:count] = rows.slots
    words[layout.positions :][:count] = rows.positions
    words[layout.kv_slots :][:count] = rows.kv_slots
    offsets = words[layout.merge_offsets :][: layout.rows + 1]
    offsets[: count + 1] = arranged.merge_offsets
    offsets[count + 1 :] = arranged.merge_offsets[-1]
    offsets += parts_at
    ranges = words[layout.ranges :][: _RANGE_WORDS * configs].reshape(configs, _RANGE_WORDS)
    ranges[:, :2] = arranged.ranges_C2
    tiles = words[layout.tiles : pages_at].reshape(-1, 6)
    tiles[:] = arranged.tiles_T6
    tiles[:, PAGE_BEGIN:FIRST_KEY] += pages_at
    words[pages_at:parts_at] = pages
    words[parts_at:] = arranged.merge_parts
    num_tiles = (arranged.ranges_C2[:, 1] - arranged.ranges_C2[:, 0]).tolist()
    return PackedStep(layout, words, tuple(num_tiles), samples, all_logits)
