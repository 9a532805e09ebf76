"""An AttentionPlan's tiles as a GPU wants them: cut to M tiles, joined along keys, sorted by configuration.

Responsible for numpy arrays alone. A plan's tiles are chunks of 256 keys, as batch invariance asks for; without
that contract a longer run of keys for the same rows is one tile with one partial result, as long as enough
tiles are left to fill the GPU:

    rows 0 .. 9, chunks 0 1 2 3   ->   cut at multiples of 8 rows, then joined two by two
    [0 .. 9) x 0,1,2,3                 [0 .. 8) x 01, 23    [8 .. 9) x 01, 23

Every row then merges its parts in ascending order of keys. Left to others: making the plan (`engine.plan`),
buffers and launches (`ops.cuda_attention`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]

ROW_BEGIN, ROW_END, PAGE_BEGIN, PAGE_END, FIRST_KEY, PART = range(6)  # engine.batch.TILE_FIELDS


@dataclass(frozen=True, slots=True)
class ArrangedPlan:
    """tiles: int32 [T, 6]; ranges: int32 [C, 2], [begin, end) in tiles of each M tile, in the order given.

    merge_offsets [R + 1], merge_parts: CSR, the parts of each row in ascending order of keys. parts: how many.
    """

    tiles_T6: Int32Array
    ranges_C2: Int32Array
    merge_offsets: Int32Array
    merge_parts: Int32Array
    parts: int


def arrange(
    tiles_T6: Int32Array, rows: int, m_rows: tuple[int, ...], block_size: int, wanted_tiles: int
) -> ArrangedPlan:
    """Cut, join and sort. m_rows: the rows that each M tile holds, ascending; the last is the most of a tile.

    wanted_tiles: tiles are joined along keys only while about so many remain; 0 joins nothing.
    """
    pieces = cut_rows(tiles_T6.astype(np.int64), m_rows[-1])
    if wanted_tiles:
        chunks = len(pieces) // wanted_tiles
        if chunks > 1:
            pieces = join_runs(pieces, chunks, block_size)
    sizes = pieces[:, ROW_END] - pieces[:, ROW_BEGIN]
    pieces[:, PART] = np.cumsum(sizes) - sizes
    offsets, parts = _merge_lists(pieces, sizes, rows)
    which = np.searchsorted(np.array(m_rows), sizes)
    order = np.lexsort((pieces[:, FIRST_KEY], which))
    ends = np.cumsum(np.bincount(which, minlength=len(m_rows)))
    ranges = np.stack((np.concatenate(([0], ends[:-1])), ends), 1)
    return ArrangedPlan(
        pieces[order].astype(np.int32), ranges.astype(np.int32), offsets, parts, int(sizes.sum())
    )


def cut_rows(tiles: Ints, most: int) -> Ints:
    """Tiles of at most `most` rows, cut at multiples of it, so that the tiles of a row's chunks are cut alike."""
    first = tiles[:, ROW_BEGIN] // most
    counts = -(-tiles[:, ROW_END] // most) - first
    pieces = np.repeat(tiles, counts, 0)
    nth = np.arange(len(pieces)) - np.repeat(np.cumsum(counts) - counts, counts)
    begins = (np.repeat(first, counts) + nth) * most
    pieces[:, ROW_BEGIN] = np.maximum(pieces[:, ROW_BEGIN], begins)
    pieces[:, ROW_END] = np.minimum(pieces[:, ROW_END], begins + most)
    return pieces


def join_runs(pieces: Ints, chunks: int, block_size: int) -> Ints:
    """Up to `chunks` pieces of the same rows whose pages follow one another become one."""
    pieces = pieces[np.lexsort((pieces[:, FIRST_KEY], pieces[:, ROW_END], pieces[:, ROW_BEGIN]))]
    above, below = pieces[:-1], pieces[1:]
    keys = (above[:, PAGE_END] - above[:, PAGE_BEGIN]) * block_size
    follows = (
        (above[:, ROW_BEGIN] == below[:, ROW_BEGIN])
        & (above[:, ROW_END] == below[:, ROW_END])
        & (above[:, PAGE_END] == below[:, PAGE_BEGIN])
        & (above[:, FIRST_KEY] + keys == below[:, FIRST_KEY])
    )
    index = np.arange(len(pieces))
    starts = np.maximum.accumulate(np.where(np.concatenate(([False], follows)), 0, index))
    kept = np.flatnonzero((index - starts) % chunks == 0)
    joined = pieces[kept]
    joined[:, PAGE_END] = pieces[np.append(kept[1:], len(pieces)) - 1, PAGE_END]
    return joined


def _merge_lists(pieces: Ints, sizes: Ints, rows: int) -> tuple[Int32Array, Int32Array]:
    nth = np.arange(int(sizes.sum())) - np.repeat(pieces[:, PART], sizes)
    row = np.repeat(pieces[:, ROW_BEGIN], sizes) + nth
    order = np.lexsort((np.repeat(pieces[:, FIRST_KEY], sizes), row))
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(np.bincount(row, minlength=rows), out=offsets[1:])
    return offsets, order.astype(np.int32)
