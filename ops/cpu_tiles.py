"""From an attention plan to kernel calls: which pieces of which tiles run together, and where they lie.

Runs once a step, on the host, in numpy and Python; `ops.cpu_attention` says what a call may contain and why.

    plan tile (rows x one chunk)  -- cut by what the rows see -->  pieces: (keys, masked, rows) alike inside
    pieces of one shape           -- runs at constant distances --> a call each, on strided views
                                  -- short or scattered runs -->    one call together, on gathered keys
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from ops.cpu_attention import (
    CHUNK,
    KEY_STEP,
    AttentionStep,
    Call,
    Geometry,
    KeyView,
    Merge,
    QueryView,
    passed_tiles,
)
from ops.cpu_runs import Piece, Shape, split_into_runs

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Plan:
    """The arrays of an attention plan, whose meaning is in `engine.batch.AttentionPlan`. positions: int64
    [R].
    """

    tiles: Int32Array
    pages: Int32Array
    merge_offsets: Int32Array
    merge_parts: Int32Array
    positions: Int64Array


def prepare(plan: Plan, geometry: Geometry, padded_rows: int, window: int | None = None) -> AttentionStep:
    """Turn a plan into kernel calls.

    padded_rows >= R: the rows after the plan's get row 0's result, so that they stay finite. window: a row
    sees its own key and the window - 1 before it; None: all. Block sizes are divisors or multiples of 64 up
    to 256.
    """
    where = [-1] * _num_parts(plan)
    calls: list[Call] = []
    offset = 0
    for shape, pieces in _group_pieces(plan, geometry, window).items():
        for run in split_into_runs(shape, pieces, geometry):
            call = _make_call(shape, run, plan.positions, geometry, window)
            for tile, piece in enumerate(run):
                place = offset + tile * call.places
                where[piece.part : piece.part + shape.rows] = range(place, place + shape.rows)
            offset += call.passed * call.places
            calls.append(call)
    order, merge = _order_and_merge(plan, np.array(where), padded_rows, offset)
    return AttentionStep(geometry, tuple(calls), order, merge)


def _num_parts(plan: Plan) -> int:
    tiles = plan.tiles
    return int((tiles[:, 5] + tiles[:, 1] - tiles[:, 0]).max(initial=0))


def _group_pieces(plan: Plan, geometry: Geometry, window: int | None) -> dict[Shape, list[Piece]]:
    groups: dict[Shape, list[Piece]] = {}
    pages, positions = plan.pages.tolist(), plan.positions.tolist()
    for row_begin, row_end, page_begin, page_end, first_key, part in plan.tiles.tolist():
        visible = [position - first_key + 1 for position in positions[row_begin:row_end]]
        for begin, end, keys, masked in _uniform_runs(visible, window):
            used = pages[page_begin : min(page_end, page_begin - (-keys // geometry.block_size))]
            slot = _first_slot(used, keys, geometry.block_size)
            piece = Piece(row_begin + begin, first_key, used, part + begin, slot)
            groups.setdefault(Shape(keys, masked, end - begin), []).append(piece)
    return groups


def _uniform_runs(visible: list[int], window: int | None) -> list[tuple[int, int, int, bool]]:
    """Cut a tile's rows into runs (begin, end, keys, masked); rows that see none of the chunk are left out.

    visible: keys from the chunk's start to the row's own, [N]; beyond 256 for rows past the chunk.
    """
    if window is None and min(visible) > CHUNK:
        return [(0, len(visible), CHUNK, False)]
    kinds = [_keys_and_mask(count, window) for count in visible]
    cuts = [0, *(i for i in range(1, len(kinds)) if kinds[i] != kinds[i - 1]), len(kinds)]
    return [(a, b, *kinds[a]) for a, b in pairwise(cuts) if kinds[a][0]]


def _keys_and_mask(visible: int, window: int | None) -> tuple[int, bool]:
    """How many keys of a chunk a row reads (0: none), and whether some of them are masked."""
    if visible <= 0 or (window is not None and visible - window >= CHUNK):
        return 0, False
    inside = visible <= CHUNK
    keys = -(-visible // KEY_STEP) * KEY_STEP if inside else CHUNK
    return keys, inside or (window is not None and visible > window)


def _first_slot(pages: list[int], keys: int, block_size: int) -> int | None:
    if len(pages) * block_size < keys:
        return None
    first, last = pages[0], pages[-1]
    consecutive = pages == list(range(first, last + 1))
    return first * block_size if consecutive else None


def _make_call(
    shape: Shape, run: list[Piece], positions: Int64Array, geometry: Geometry, window: int | None
) -> Call:
    passed = passed_tiles(len(run), geometry.kv_heads, geometry.padded_queries(shape.rows))
    return Call(
        geometry=geometry,
        tiles=len(run),
        rows=shape.rows,
        keys=shape.keys,
        passed=passed,
        places=geometry.places(shape.rows),
        query_view=_query_view(shape.rows, run, geometry),
        key_view=_key_view(shape.keys, run, geometry),
        mask=_mask(shape, run, positions, geometry, window) if shape.masked else None,
        newest=_newest(shape, run, positions) if shape.masked and shape.rows == 1 else None,
    )


def _newest(shape: Shape, run: list[Piece], positions: Int64Array) -> torch.Tensor:
    last_T = np.array([positions[piece.row] - piece.first_key for piece in run])
    return torch.from_numpy(np.arange(len(run)) * shape.keys + last_T)


def _query_view(rows: int, run: list[Piece], geometry: Geometry) -> QueryView:
    width = geometry.query_width
    starts = [piece.row for piece in run]
    stride = starts[1] - starts[0] if len(run) > 1 else 0
    if stride >= 0 and all(b - a == stride for a, b in pairwise(starts)):
        return QueryView(stride * width, starts[0] * width)
    spare = -(-geometry.query_quantum // geometry.group)
    index = np.concatenate([np.arange(row, row + rows) for row in starts] + [np.zeros(spare, np.int64)])
    return QueryView(rows * width, 0, torch.from_numpy(index))


def _key_view(keys: int, run: list[Piece], geometry: Geometry) -> KeyView:
    slots = [piece.slot for piece in run if piece.slot is not None]
    if len(slots) == len(run):
        stride = slots[1] - slots[0] if len(run) > 1 else 0
        if stride >= 0 and all(b - a == stride for a, b in pairwise(slots)):
            return KeyView(stride, slots[0])
    per_tile = -(-keys // geometry.block_size)
    # A chunk's missing blocks are masked; its own first block stands in, so that no other's keys are touched.
    pages = [piece.pages + piece.pages[:1] * (per_tile - len(piece.pages)) for piece in run]
    stride = per_tile * geometry.block_size if len(run) > 1 else 0
    size = (2 * geometry.kv_heads, len(run) * per_tile, geometry.block_size * geometry.head_dim)
    gathered = torch.empty(size, dtype=geometry.dtype)
    return KeyView(stride, 0, torch.tensor(pages, dtype=torch.int64).view(-1), gathered)


def _mask(
    shape: Shape, run: list[Piece], positions: Int64Array, geometry: Geometry, window: int | None
) -> torch.Tensor:
    """Additive mask [T, 1, 1, L] for single rows, else [T, 1, padded N x G, L]."""
    last_TN1 = np.stack([positions[piece.row : piece.row + shape.rows] - piece.first_key for piece in run])[
        ..., None
    ]
    keys_L = np.arange(shape.keys)
    hidden = keys_L > last_TN1
    if window is not None:
        hidden |= keys_L <= last_TN1 - window
    mask = torch.from_numpy(hidden)
    if shape.rows > 1:
        mask = mask.repeat_interleave(geometry.group, 1)
        mask = torch.nn.functional.pad(mask, (0, 0, 0, geometry.padded_queries(shape.rows) - mask.shape[1]))
    additive = torch.zeros(mask.shape, dtype=geometry.dtype).masked_fill_(mask, float("-inf"))
    return additive.unsqueeze(1)


def _order_and_merge(
    plan: Plan, where: Int64Array, padded_rows: int, num_results: int
) -> tuple[torch.Tensor | None, Merge | None]:
    parts = where[plan.merge_parts]
    counts = np.diff(plan.merge_offsets)
    if (parts < 0).any():  # a window dropped whole tiles
        rows = np.repeat(np.arange(len(counts)), counts)[parts >= 0]
        parts, counts = parts[parts >= 0], np.bincount(rows, minlength=len(counts))
    if counts.max(initial=1) == 1:
        order = np.concatenate((parts, np.full(padded_rows - len(parts), parts[0])))
        identity = num_results == padded_rows and bool((order == np.arange(padded_rows)).all())
        return (None if identity else torch.from_numpy(order)), None
    return None, _merge(parts, counts, padded_rows, num_results)


def _merge(parts: Int64Array, counts: Int64Array, padded_rows: int, num_results: int) -> Merge:
    starts = np.cumsum(counts) - counts
    padding = padded_rows - len(counts)
    starts = np.concatenate((starts, np.full(padding, starts[0])))
    counts = np.concatenate((counts, np.full(padding, counts[0])))
    ranks = np.arange(counts.max())
    absent = ranks[None] >= counts[:, None]
    table = parts[starts[:, None] + np.where(absent, 0, ranks[None])]
    order = np.ascontiguousarray(table.T).reshape(-1)
    in_order = len(order) == num_results and bool((order == np.arange(num_results)).all())
    return Merge(
        ranks=len(ranks),
        order=None if in_order else torch.from_numpy(order),
        absent=torch.from_numpy(np.ascontiguousarray(absent.T)).unsqueeze(-1) if absent.any() else None,
    )
