"""From block tables to an AttentionPlan: which rows read which pages, and what each row merges.

Responsible for: the plan alone, a pure function of (start, length, blocks) of each sequence in batch order. A
tile covers one chunk of CHUNK keys; where neighbours in the batch have the same pages in a chunk that lies
wholly before all their rows, one tile serves them all:

    chunk      0         1         2
    seq A   [ t0    ] [ t1    ] [ t2 ]          share(A, B) = 1 chunk, share(B, C) = 2
    seq B   [ t0    ] [ t3    ] [ t4 ]          the row of C merges the parts of t0, t3, t5
    seq C   [ t0    ] [ t3    ] [ t5 ]

So a sequence brings its own tiles for the chunks it does not share with the one before it, and a tile reaches
down to the first sequence that shares less. Nothing here depends on the batch but *which* tiles are merged
into one: every row still sees chunk after chunk, which is what batch invariance asks for.
Leaves to others: the order of the sequences (BatchLayout), causal masking inside a tile (the kernels).
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.batch import CHUNK, AttentionPlan, Int32Array
from engine.cache.edges import common_length

Ints = npt.NDArray[np.int64]


class Rows(NamedTuple):
    """`length` rows of one sequence at positions start .. start + length; `blocks` in logical order."""

    start: int
    length: int
    blocks: list[int]


def build_plan(sequences: Items[Rows], block_size: int, share: bool) -> AttentionPlan:
    """The plan of a batch. `block_size` divides CHUNK; `share` off: every sequence has its own tiles."""
    count = len(sequences)
    starts = np.fromiter((rows.start for rows in sequences), np.int64, count)
    lengths = np.fromiter((rows.length for rows in sequences), np.int64, count)
    shared = np.zeros(count, np.int64)
    if share:
        for index in range(1, count):
            shared[index] = _shared_chunks(sequences[index - 1], sequences[index], block_size)
    return _Builder(sequences, starts, lengths, shared, block_size).plan()


def _shared_chunks(above: Rows, below: Rows, block_size: int) -> int:
    """Leading whole chunks that two neighbours have in the same pages, before the first row of both."""
    if not above.blocks or not below.blocks or above.blocks[0] != below.blocks[0]:
        return 0
    before = min(above.start, below.start) // CHUNK
    pages = CHUNK // block_size
    return common_length(above.blocks, below.blocks, before * pages) // pages


class _Builder:
    """One build. Index arrays: i over sequences, t over tiles (in order of their first sequence), r over
    rows."""

    def __init__(
        self,
        sequences: Items[Rows],
        starts: Ints,
        lengths: Ints,
        shared: Ints,
        block_size: int,
    ) -> None:
        self.sequences, self.starts, self.lengths, self.shared = sequences, starts, lengths, shared
        self.block_size = block_size
        self.pages_per_chunk = CHUNK // block_size
        ends = starts + lengths
        self.chunks = (ends + (CHUNK - 1)) // CHUNK  # of each sequence
        self.num_pages = (ends + (block_size - 1)) // block_size
        self.row_ends = np.cumsum(lengths)
        self.own = self.chunks - shared  # tiles each sequence brings
        self.tile_ends = np.cumsum(self.own)

    def plan(self) -> AttentionPlan:
        tiles = self._tiles()
        shared_keys = self._reach_down(tiles)
        sizes = tiles[:, 1] - tiles[:, 0]
        tiles[:, 5] = np.cumsum(sizes) - sizes
        offsets, parts = self._merge(tiles)
        order = np.argsort(tiles[:, 4], kind="stable")
        return AttentionPlan(
            tiles=tiles[order].astype(np.int32),
            pages=self._pages(),
            merge_offsets=offsets,
            merge_parts=parts,
            shared_keys=shared_keys,
        )

    def _tiles(self) -> Ints:
        """Every tile as if it ended with its first sequence; `part` is still open."""
        owner = np.repeat(np.arange(len(self.sequences)), self.own)
        tile_begins = self.tile_ends - self.own
        nth = np.arange(len(owner)) - tile_begins[owner]
        chunk = nth + self.shared[owner]
        page_counts = self.num_pages - self.shared * self.pages_per_chunk
        page_ends = np.cumsum(page_counts)
        tiles = np.empty((len(owner), 6), np.int64)
        # Rows before a chunk have nothing to read in it: a prefilling sequence's later tiles start further
        # down.
        skipped = np.maximum(chunk * CHUNK - self.starts[owner], 0)
        tiles[:, 0] = (self.row_ends - self.lengths)[owner] + skipped
        tiles[:, 1] = self.row_ends[owner]
        tiles[:, 2] = (page_ends - page_counts)[owner] + nth * self.pages_per_chunk
        tiles[:, 3] = np.minimum(tiles[:, 2] + self.pages_per_chunk, page_ends[owner])
        tiles[:, 4] = chunk * CHUNK
        return tiles

    def _reach_down(self, tiles: Ints) -> int:
        """Extend shared tiles to the last sequence that shares them; the keys this saves reading."""
        if not self.shared.any():
            return 0
        saved = 0
        row_begins = (self.row_ends - self.lengths).tolist()
        first_tile = (self.tile_ends - self.own).tolist()
        shared, own = self.shared.tolist(), self.own.tolist()
        open_runs: list[
            tuple[int, int, int, int]
        ] = []  # (first chunk, chunk end, tile of the first, sequence)
        for index in range(len(shared) + 1):
            keep = shared[index] if index < len(shared) else 0
            while open_runs and open_runs[-1][1] > keep:
                first, end, tile, sequence = open_runs.pop()
                closed = max(first, keep)
                if index - sequence > 1:
                    tiles[tile + closed - first : tile + end - first, 1] = (
                        row_begins[index] if index < len(shared) else int(self.row_ends[-1])
                    )
                    saved += (end - closed) * CHUNK * (index - sequence - 1)
                if closed > first:
                    open_runs.append((first, closed, tile, sequence))
            if index < len(shared):
                open_runs.append((keep, keep + own[index], first_tile[index], index))
        return saved

    def _merge(self, tiles: Ints) -> tuple[Int32Array, Int32Array]:
        chain_ends = np.cumsum(self.chunks)
        tile_of = self._tile_chains(chain_ends - self.chunks)
        sequence = np.repeat(np.arange(len(self.sequences)), self.lengths)
        row = np.arange(len(sequence))
        position = self.starts[sequence] + row - (self.row_ends - self.lengths)[sequence]
        counts = position // CHUNK + 1
        offsets = np.zeros(len(row) + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
        tile = tile_of[within + np.repeat((chain_ends - self.chunks)[sequence], counts)]
        parts = tiles[tile, 5] + np.repeat(row, counts) - tiles[tile, 0]
        return offsets.astype(np.int32), parts.astype(np.int32)

    def _tile_chains(self, begins: Ints) -> Ints:
        """For each sequence the tile of each of its chunks, one after the other."""
        sequence = np.repeat(np.arange(len(self.sequences)), self.chunks)
        chunk = np.arange(len(sequence)) - begins[sequence]
        tiles: Ints = (self.tile_ends - self.own - self.shared)[sequence] + chunk
        at = begins.tolist()
        for index in np.flatnonzero(self.shared).tolist():
            share = int(self.shared[index])
            tiles[at[index] : at[index] + share] = tiles[at[index - 1] : at[index - 1] + share]
        return tiles

    def _pages(self) -> Int32Array:
        skips = (self.shared * self.pages_per_chunk).tolist()
        ends = self.num_pages.tolist()
        slices = [rows.blocks[skips[i] : ends[i]] for i, rows in enumerate(self.sequences)]
        return np.fromiter(chain.from_iterable(slices), np.int32)
