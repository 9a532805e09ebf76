"""The plan of some of a plan's rows: what the last layer needs, where only the rows with logits go on.

Pure index arithmetic in numpy. By batch invariance the rows come to the same results as among all others.
"""

from __future__ import annotations

import numpy as np

from ops.cpu_tiles import Int64Array, Plan


def plan_of_rows(plan: Plan, rows_L: Int64Array) -> Plan:
    """The rows keep their order and are numbered anew, 0 .. L; tiles that hold none of them are left out.

    rows: ascending, at least one.
    """
    tiles = plan.tiles.astype(np.int64)
    begins, ends = np.searchsorted(rows_L, tiles[:, 0]), np.searchsorted(rows_L, tiles[:, 1])
    sizes = ends - begins
    parts = np.cumsum(sizes) - sizes  # of each tile, its first place among the new partial results
    offsets, merge_parts = _merge(plan, tiles, rows_L, parts - begins)
    kept = np.column_stack((begins, ends, tiles[:, 2:5], parts))[sizes > 0]
    return Plan(
        tiles=kept.astype(np.int32),
        pages=plan.pages,
        merge_offsets=offsets.astype(np.int32),
        merge_parts=merge_parts.astype(np.int32),
        positions=plan.positions[rows_L],
    )


def _merge(
    plan: Plan, tiles: Int64Array, rows_L: Int64Array, first_T: Int64Array
) -> tuple[Int64Array, Int64Array]:
    """(offsets, parts) of the rows. first: of each tile, where the part of a row 0 would lie."""
    starts = plan.merge_offsets[rows_L].astype(np.int64)
    counts = plan.merge_offsets[rows_L + 1] - starts
    offsets = np.concatenate(([0], np.cumsum(counts)))
    before = plan.merge_parts[np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)]
    order = np.argsort(tiles[:, 5])
    tile = order[np.searchsorted(tiles[order, 5], before, side="right") - 1]
    return offsets, first_T[tile] + np.repeat(np.arange(len(rows_L)), counts)
