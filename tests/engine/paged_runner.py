"""A runner that reads the KV it is told to read, so that any wrong block, copy or plan gives wrong tokens.

Every cell of its paged cache holds (position, token, digest of all ids up to here). A sampled token is a digest
of the cells found through the AttentionPlan, in the order in which the row merges its parts; `expected_tokens`
says what a sequence gives that runs alone, from its ids only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from engine.batch import CHUNK, SampledToken, SampledTokens, ScheduledBatch, ScheduledSequence
from engine.types import Ready, SamplingParams

Cell = tuple[int, int, int]

READY = Ready(
    block_size=64,
    num_blocks=32,
    max_model_len=2048,
    max_num_seqs=8,
    max_num_batched_tokens=256,
    vocab_size=100,
    device="test",
    dtype="none",
    kv_cache_bytes=32 * 64 * 10,
)
"""Of an engine around a PagedRunner."""


@dataclass(slots=True)
class _Slot:
    sampling: SamplingParams
    num_generated: int
    blocks: tuple[int, ...] = ()
    last_token: int = -1


class PagedRunner:
    """Tokens are in 0..vocab_size; `poison` are seeds on which run() raises, with nothing done."""

    def __init__(self, num_blocks: int, block_size: int, max_model_len: int, vocab_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.max_model_len = max_model_len
        self.vocab_size = vocab_size
        self.poison: set[int] = set()
        self.num_computed = 0
        self._cells: dict[tuple[int, int], Cell] = {}
        self._slots: dict[int, _Slot] = {}

    def run(self, batch: ScheduledBatch) -> SampledTokens:
        for source, target, tokens in batch.copies:
            assert 0 < tokens <= self.block_size
            for offset in range(tokens):
                self._copy_cell((source, offset), (target, offset))
        for install in batch.installs:
            self._slots[install.slot] = _Slot(install.sampling, len(install.output_ids))
        for slot, blocks in (batch.block_tables or {}).items():
            self._slots[slot].blocks = blocks
        if any(self._slots[rows.slot].sampling.seed in self.poison for rows in batch.sequences):
            raise RuntimeError("poisoned")
        for rows in batch.sequences:
            self._write(rows)
            self.num_computed += rows.length
        return SampledTokens(batch.step_id, tuple(self._samples(batch)))

    def _copy_cell(self, source: tuple[int, int], target: tuple[int, int]) -> None:
        """One that was never written, behind the tail of something that ended, leaves nothing that may be read."""
        self._cells.pop(target, None)
        if source in self._cells:
            self._cells[target] = self._cells[source]

    def _write(self, rows: ScheduledSequence) -> None:
        slot = self._slots[rows.slot]
        tokens = (slot.last_token,) if rows.token_ids is None else rows.token_ids
        assert len(tokens) == rows.length
        for position, token in enumerate(tokens, rows.start):
            before = self._cell(slot, position - 1)[2] if position else 0
            place = slot.blocks[position // self.block_size], position % self.block_size
            assert place[0] != 0, "a real row writes to scratch"
            self._cells[place] = (position, token, digest(before, token))

    def _cell(self, slot: _Slot, position: int) -> Cell:
        cell = self._cells[slot.blocks[position // self.block_size], position % self.block_size]
        assert cell[0] == position
        return cell

    def _samples(self, batch: ScheduledBatch) -> list[SampledToken]:
        samples, row = [], 0
        for rows in batch.sequences:
            last = row + rows.length - 1
            for index in (row, last):
                cells = self._attend(batch, index, rows.start + index - row)
            if rows.sample:
                samples.append(self._sample(rows, cells))
            row += rows.length
        return samples

    def _attend(self, batch: ScheduledBatch, row: int, position: int) -> list[Cell]:
        """What a row sees: keys 0..position, each once, ascending, and all of its own history."""
        plan = batch.plan
        tile_of = {
            int(tile[5]) + index: (tile, int(tile[0]) + index)
            for tile in plan.tiles
            for index in range(int(tile[1] - tile[0]))
        }
        cells: list[Cell] = []
        for part in plan.merge_parts[plan.merge_offsets[row] : plan.merge_offsets[row + 1]]:
            tile, tile_row = tile_of[int(part)]
            assert tile_row == row
            assert tile[4] % CHUNK == 0
            for page in plan.pages[tile[2] : tile[3]]:
                begin = len(cells)
                wanted = min(self.block_size, position + 1 - begin)
                cells.extend(self._cells[int(page), offset] for offset in range(wanted))
        assert [cell[0] for cell in cells] == list(range(position + 1))
        before = 0
        for _, token, known in cells:
            before = digest(before, token)
            assert known == before, "a block of another history"
        return cells

    def _sample(self, rows: ScheduledSequence, cells: list[Cell]) -> SampledToken:
        slot = self._slots[rows.slot]
        token = choose(cells[-1][2], slot.sampling, len(cells), slot.num_generated, self.vocab_size)
        slot.num_generated += 1
        slot.last_token = token
        return SampledToken(rows.slot, token)


def digest(before: int, token: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{before},{token}".encode(), digest_size=8).digest(), "big")


def choose(state: int, sampling: SamplingParams, position: int, generated: int, vocab_size: int) -> int:
    token = digest(digest(state, sampling.seed), position) % vocab_size
    while token in sampling.stop_token_ids and generated < sampling.min_tokens:
        token = (token + 1) % vocab_size
    return token


def expected_tokens(
    prompt: Sequence[int], sampling: SamplingParams, vocab_size: int, max_model_len: int
) -> tuple[list[int], str]:
    """(tokens, finish reason) of a sequence that runs alone."""
    state = 0
    for token in prompt:
        state = digest(state, token)
    tokens: list[int] = []
    while True:
        position = len(prompt) + len(tokens)
        token = choose(state, sampling, position, len(tokens), vocab_size)
        if token in sampling.stop_token_ids and len(tokens) >= sampling.min_tokens:
            return tokens, "stop"
        tokens.append(token)
        state = digest(state, token)
        if len(tokens) == sampling.max_tokens or position + 1 == max_model_len:
            return tokens, "length"
