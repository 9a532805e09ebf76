"""Which pieces of a step's tiles run in one call of the kernel: those that lie at constant distances.

    extents with a tile   1  2  3     5        8       11
    calls                 a  a  a     b        b        b

What is left alone has its keys copied, where that is cheaper than a call. That a longer run computes tiles which
nobody needs never pays: 192 keys of 4 heads of 32 take 33 us as a tile, 20 us as a copy, and one more call takes
25 us (a Xeon of 2.5 GHz).

Pure; runs on the host whenever a step is prepared. Left to `ops.cpu_tiles`: what pieces are, and the calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ops.cpu_attention import QUERY_BLOCK, Geometry

_CALL_COST = 256 * 1024
"""Bytes that a gather copies in the time that one more kernel call costs (30 us on a Xeon of 2.5 GHz)."""

_MOST_SEARCHED = 16
"""Pieces between which the distances of a longest run are looked for: the cost is quadratic in their number."""


class Shape(NamedTuple):
    """What pieces must share to run in one call."""

    keys: int
    masked: bool
    rows: int


@dataclass(slots=True)
class Piece:
    """A tile, or those of its rows that share a Shape. slot: its first key's, when its blocks are consecutive."""

    row: int
    first_key: int
    pages: list[int]
    part: int
    slot: int | None


def split_into_runs(shape: Shape, pieces: list[Piece], geometry: Geometry) -> list[list[Piece]]:
    """Each run has its slots at constant distances, and where pieces are tall its rows too; or it is gathered."""
    tall = shape.rows * geometry.group > QUERY_BLOCK
    runs = _in_order(pieces) if tall else _progressions(pieces)
    tile = 2 * geometry.kv_heads * shape.keys * geometry.head_dim * geometry.dtype.itemsize
    copied = [run for run in runs if len(run) * tile <= _CALL_COST or run[0].slot is None]
    if len(copied) < 2:
        return runs
    return [*(run for run in runs if run not in copied), [piece for run in copied for piece in run]]


def _in_order(pieces: list[Piece]) -> list[list[Piece]]:
    """Runs of neighbours whose rows need no copy either."""
    runs: list[list[Piece]] = []
    for piece in pieces:
        if runs and _continues(runs[-1], piece):
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return runs


def _continues(run: list[Piece], piece: Piece) -> bool:
    last = run[-1]
    if last.slot is None or piece.slot is None or piece.slot <= last.slot or piece.row < last.row:
        return False
    if len(run) == 1:
        return True
    before = run[-2].slot
    return (
        piece.slot - last.slot == last.slot - (before or 0) and piece.row - last.row == last.row - run[-2].row
    )


def _progressions(pieces: list[Piece]) -> list[list[Piece]]:
    """Few runs whose slots ascend at constant distances; their rows are in any order."""
    at: dict[int, Piece] = {}
    # A run of its own has what lies scattered, and what reads the same keys as another one.
    runs = [
        [piece] for piece in pieces if piece.slot is None or at.setdefault(piece.slot, piece) is not piece
    ]
    while at:
        runs.append([at.pop(slot) for slot in _longest_progression(sorted(at))])
    return runs


def _longest_progression(slots: list[int]) -> range:
    """Of the first `_MOST_SEARCHED` of `slots`, ascending; continued among the rest."""
    present, first = set(slots), slots[0]
    best = range(first, first + 1)
    for index, begin in enumerate(slots[:_MOST_SEARCHED]):
        if len(best) >= len(slots) - index:
            break
        for second in slots[index + 1 : _MOST_SEARCHED]:
            step = second - begin
            if begin - step in present or begin + len(best) * step > slots[-1]:
                continue  # part of a longer one, or too short
            end = second + step
            while end in present:
                end += step
            if (end - begin) // step > len(best):
                best = range(begin, end, step)
    return best
