"""From a ScheduledBatch to the step's arrays.

Owns the slot tables of the runner: each running sequence's block table and its last sampled token, by slot.
Changed only through `apply` (a batch's installs and tables) and `record` (a step's samples).

Rows are padded as what computes them wants it; padded rows compute token 0 at position 0 and write to scratch
block 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt
import torch

from engine.batch import ScheduledBatch, ScheduledSequence

Int64Array = npt.NDArray[np.int64]

Padding = Callable[[int], int]
"""Number of rows -> how many they are computed as."""

LEFT_OUT = 48
"""Rows that the last layer has to leave out, for a plan of the rest to pay."""

_RUN = 16
"""Rows that are written by index in the time that a run of them is."""


@dataclass(frozen=True, slots=True)
class StepInputs:
    """One step's rows.

    positions: int64 [R], without padding. ids, padded_positions, kv_slots: int64 [padded R]. logit_rows: the
    rows to compute logits of, padded; None: all. sampled: the sequences these rows belong to, in order; behind
    them come the rows of `scored`, one for each target.
    invalid: slots whose token ids are not in the vocabulary (computed with token 0 instead; their sample is
    an error).
    """

    positions: Int64Array
    ids: torch.Tensor
    padded_positions: torch.Tensor
    kv_slots: torch.Tensor
    logit_rows: torch.Tensor | None
    sampled: tuple[ScheduledSequence, ...]
    invalid: frozenset[int]
    scored: tuple[ScheduledSequence, ...] = ()


class SlotTables:
    """Block tables and last tokens by slot."""

    def __init__(self, max_num_seqs: int, max_blocks: int) -> None:
        self._blocks = np.zeros((max_num_seqs, max_blocks), np.int64)
        self._num_blocks = [0] * max_num_seqs
        self._last_token = np.zeros(max_num_seqs, np.int64)

    def apply(self, batch: ScheduledBatch) -> None:
        """Take over the tables that changed and the last tokens of sequences that were resumed."""
        for install in batch.installs:
            ids = install.output_ids or install.prompt_ids
            if ids:
                self._last_token[install.slot] = ids[-1]
        for slot, blocks in (batch.block_tables or {}).items():
            self._blocks[slot, : len(blocks)] = blocks
            self._num_blocks[slot] = len(blocks)

    def record(self, slot: int, token: int) -> None:
        """The token that the slot's next decode row computes."""
        self._last_token[slot] = token

    def blocks(self, slot: int) -> list[int]:
        """The slot's physical blocks in logical order."""
        table: list[int] = self._blocks[slot, : self._num_blocks[slot]].tolist()
        return table

    def inputs(self, batch: ScheduledBatch, block_size: int, padding: Padding, vocab_size: int) -> StepInputs:
        """The rows of a batch whose tables have been applied."""
        sequences = batch.sequences
        count = len(sequences)
        starts = np.fromiter((item.start for item in sequences), np.int64, count)
        lengths = np.fromiter((item.length for item in sequences), np.int64, count)
        slots = np.fromiter((item.slot for item in sequences), np.int64, count)
        ends = np.cumsum(lengths)
        rows = int(ends[-1])
        positions, row_slots = starts, slots
        if rows > count:
            positions = np.arange(rows) + np.repeat(starts - (ends - lengths), lengths)
            row_slots = np.repeat(slots, lengths)
        ids = np.fromiter(chain.from_iterable(self._ids(sequences)), np.int64, rows)
        padded = padding(rows)
        blocks, places = np.divmod(positions, block_size)
        kv_slots = self._blocks[row_slots, blocks] * block_size + places
        invalid = (ids < 0) | (ids >= vocab_size)
        wrong = frozenset[int]()
        if invalid.any():
            wrong = frozenset(row_slots[invalid].tolist())
            ids[invalid] = 0
        sampled = np.fromiter((item.sample for item in sequences), np.bool_, count)
        scored = tuple([item for item in sequences if item.targets])
        return StepInputs(
            positions=positions,
            ids=_padded(ids, padded),
            padded_positions=_padded(positions, padded),
            kv_slots=_padded(kv_slots, padded),
            logit_rows=_logit_rows(ends[sampled] - 1, padded, padding)
            if not scored
            else _scored_rows(ends[sampled] - 1, sequences, ends - lengths, padding),
            sampled=tuple(item for item in sequences if item.sample),
            invalid=wrong,
            scored=scored,
        )

    def _ids(self, sequences: tuple[ScheduledSequence, ...]) -> Iterator[tuple[int, ...]]:
        for item in sequences:
            yield (int(self._last_token[item.slot]),) if item.token_ids is None else item.token_ids


def slot_runs(slots: Int64Array) -> tuple[tuple[int, int, int], ...] | None:
    """(first row, row after the last, first slot) of rows whose slots follow each other; None: too many to pay."""
    if len(slots) < _RUN:
        return None
    cuts = np.flatnonzero(np.diff(slots) != 1) + 1
    if (len(cuts) + 1) * _RUN > len(slots):
        return None
    bounds = [0, *cuts.tolist(), len(slots)]
    return tuple((begin, end, int(slots[begin])) for begin, end in pairwise(bounds))


def _padded(values: Int64Array, length: int) -> torch.Tensor:
    if len(values) == length:
        return torch.from_numpy(values)
    result = np.zeros(length, np.int64)
    result[: len(values)] = values
    return torch.from_numpy(result)


def _logit_rows(rows: Int64Array, padded_rows: int, padding: Padding) -> torch.Tensor | None:
    if not len(rows):
        return torch.empty(0, dtype=torch.int64)
    padded = padding(len(rows))
    if padded == padded_rows and rows[-1] == len(rows) - 1:
        return None
    return _padded(rows, padded)


def _scored_rows(
    sampled: Int64Array, sequences: tuple[ScheduledSequence, ...], begins: Int64Array, padding: Padding
) -> torch.Tensor:
    """The sampled rows, and behind them the rows with targets."""
    parts = [
        np.arange(begin, begin + len(item.targets))
        for item, begin in zip(sequences, begins.tolist(), strict=True)
        if item.targets
    ]
    rows = np.concatenate((sampled, *parts))
    return _padded(rows, padding(len(rows)))
