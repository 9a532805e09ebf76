"""Attention over a plan's tiles: that of the reference, with the same bits whatever shares a tile."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("numba")

from engine.plan import Rows, build_plan
from ops.compiled.attention import QUERIES, SCRATCH
from ops.compiled.llvm import LANES
from ops.reference import paged_attention
from tests.ops.compiled.kernels import attend

KV_HEADS, SLOTS = 2, 2048


@dataclass(frozen=True)
class Case:
    """group: query heads of a kv head."""

    group: int
    dim: int
    block_size: int
    window: int

    @property
    def padded(self) -> int:
        return -(-self.dim // LANES) * LANES

    def sequences(self) -> list[Rows]:
        """A prompt across the border of a chunk, decoding in the second and the third chunk, a first token; the
        second and the third share two chunks."""
        size, order = self.block_size, np.random.default_rng(3).permutation(SLOTS // self.block_size)
        blocks = iter(order.tolist())

        def take(tokens: int) -> list[int]:
            return [next(blocks) for _ in range(-(-tokens // size))]

        common = take(512)
        lengths = ((230, 45), (529, 1), (571, 1), (0, 1))
        own = [take(275), common + take(18), common + take(60), take(1)]
        return [Rows(start, length, mine) for (start, length), mine in zip(lengths, own, strict=True)]


CASES = [
    Case(1, 16, 16, 0),
    Case(2, 24, 64, 0),
    Case(4, 32, 16, 70),
    Case(8, 64, 64, 0),
    Case(2, 128, 16, 300),
    Case(1, 64, 64, 1),
    Case(QUERIES + 1, 16, 16, 0),
]


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def _pool(case: Case) -> torch.Tensor:
    return torch.randn(2 * KV_HEADS, SLOTS, case.dim, generator=torch.Generator().manual_seed(4))


def _queries(case: Case, rows: int) -> torch.Tensor:
    """[rows, group, kv_heads, dim]."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(rows, case.group, KV_HEADS, case.dim, generator=generator)


def _positions(sequences: list[Rows]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.arange(each.start, each.start + each.length) for each in sequences])


def _compiled(
    case: Case, sequences: list[Rows], q: torch.Tensor, pool: torch.Tensor, share: bool
) -> torch.Tensor:
    """[rows, group, kv_heads, dim]."""
    plan, positions = build_plan(sequences, case.block_size, share), _positions(sequences)
    numbers = (plan.tiles, plan.pages, positions, plan.merge_offsets, plan.merge_parts)
    arrays = [np.asarray(each, np.int64).reshape(-1) for each in numbers]
    begins = np.cumsum([0, *(array.size for array in arrays)])[:-1]
    rows, parts, dim, group = len(positions), len(plan.merge_parts), case.padded, case.group
    padded = F.pad(pool, (0, dim - case.dim))
    keys = padded[:KV_HEADS].view(KV_HEADS, SLOTS // LANES, LANES, dim).transpose(2, 3)
    kv = torch.cat((keys.reshape(-1), padded[KV_HEADS:].reshape(-1))).numpy()
    scaled = F.pad(q * (math.log2(math.e) / math.sqrt(case.dim)), (0, dim - case.dim)).permute(2, 0, 1, 3)
    partial = np.full(parts * KV_HEADS * group * dim, np.nan, np.float32)
    stats = np.full(parts * KV_HEADS * group * 2, np.nan, np.float32)
    scratch = np.full(SCRATCH * (group // QUERIES + 1), np.nan, np.float32)
    out = np.full(rows * KV_HEADS * group * dim, np.nan, np.float32)
    places = np.array([rows, len(plan.tiles), parts, *begins])
    shape = (KV_HEADS * group, KV_HEADS, case.dim, dim)
    attend(
        np.concatenate(arrays), places, shape, case.block_size, case.window,
        scaled.contiguous().view(-1).numpy(), kv, SLOTS, partial, stats, scratch, out,
    )  # fmt: skip
    found = torch.from_numpy(out).view(rows, KV_HEADS, group, dim)[..., : case.dim]
    return found.transpose(1, 2)


def _slots(case: Case, sequence: Rows) -> list[int]:
    return [block * case.block_size + place for block in sequence.blocks for place in range(case.block_size)]


def test_results_are_those_of_the_reference(case: Case) -> None:
    sequences, pool = case.sequences(), _pool(case)
    positions = _positions(sequences)
    q = _queries(case, len(positions))
    slots = [_slots(case, each) for each in sequences for _ in range(each.length)]
    expected = paged_attention(
        q, pool, slots, positions.tolist(), 1 / math.sqrt(case.dim), case.window or None
    )
    found = _compiled(case, sequences, q, pool, share=True)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0.0, atol=3e-6)


def test_a_row_has_the_same_bits_alone_and_beside_others(case: Case) -> None:
    sequences, pool = case.sequences(), _pool(case)
    q = _queries(case, len(_positions(sequences)))
    together = _compiled(case, sequences, q, pool, share=True)
    assert torch.equal(_compiled(case, sequences, q, pool, share=False), together)
    for row, sequence in ((0, sequences[0]._replace(length=1)), (46, sequences[2])):
        alone = _compiled(case, [sequence], q[row : row + 1], pool, share=False)
        assert torch.equal(alone[0], together[row])


def test_what_lies_behind_a_rows_own_keys_does_not_count(case: Case) -> None:
    sequences, pool = case.sequences(), _pool(case)
    q = _queries(case, len(_positions(sequences)))
    expected = _compiled(case, sequences, q, pool, share=True)
    used = {slot for each in sequences for slot in _slots(case, each)[: each.start + each.length]}
    pool[:, [slot for slot in range(SLOTS) if slot not in used]] = torch.nan
    assert torch.equal(_compiled(case, sequences, q, pool, share=True), expected)
    pool[:, _slots(case, sequences[3])[0]] = torch.nan
    found = _compiled(case, sequences, q, pool, share=True)
    assert found[-1].isnan().all()
    assert torch.equal(found[:-1], expected[:-1])
