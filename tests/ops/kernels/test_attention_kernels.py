"""Paged attention over plans of random forests of sequences that share pages, against the reference."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from engine.plan import Rows, build_plan
from ops import reference
from ops.cuda_attention import (
    AttentionShape,
    arrange_plan,
    attend_tiles,
    merge_parts,
    new_workspace,
    paged_attention,
    upload_plan,
)

TOLERANCE = {torch.float16: 1e-3, torch.float32: 1e-5}
NUM_BLOCKS = 90
CPU = torch.device("cpu")


@dataclass(slots=True)
class Case:
    """A step: what the kernel gets, and the reference's view of the same."""

    rows: list[Rows]
    shape: AttentionShape
    q_RHD: torch.Tensor
    kv: torch.Tensor
    positions: list[int]

    def run(self, share: bool, window: int | None = None, soft_cap: float | None = None) -> torch.Tensor:
        plan = build_plan(self.rows, self.shape.block_size, share)
        arranged = arrange_plan(plan.tiles, len(self.positions), self.shape, CPU)
        device_plan = upload_plan(arranged, plan.pages, np.array(self.positions), CPU)
        workspace = new_workspace(arranged.parts, self.shape, CPU)
        workspace.out_QHD.fill_(torch.nan)
        workspace.lse_QH.fill_(torch.nan)
        out = torch.full_like(self.q_RHD, torch.nan)
        paged_attention(self.q_RHD, self.kv, device_plan, workspace, out, self.shape, window, soft_cap)
        return out

    def expected(self, window: int | None = None, soft_cap: float | None = None) -> torch.Tensor:
        shape = self.shape
        page, group, kv_heads = shape.block_size, shape.group, shape.kv_heads
        pool = self.kv.permute(1, 2, 0, 3, 4).reshape(2 * kv_heads, -1, shape.head_dim)
        slots = [
            [block * page + i for block in item.blocks for i in range(page)]
            for item in self.rows
            for _ in range(item.length)
        ]
        q = self.q_RHD
        if shape.group_major:
            q_RGHD = q.view(-1, group, kv_heads, shape.head_dim)
        else:
            q_RGHD = q.view(-1, kv_heads, group, shape.head_dim).transpose(1, 2)
        if soft_cap is None:
            out = reference.paged_attention(q_RGHD, pool, slots, self.positions, shape.scale, window)
        else:
            out = _capped(q_RGHD, pool, slots, self.positions, shape.scale, window, soft_cap)
        if not shape.group_major:
            out = out.transpose(1, 2)
        return out.reshape(q.shape)


def _capped(
    q_RGHD: torch.Tensor,
    pool: torch.Tensor,
    slots: list[list[int]],
    positions: list[int],
    scale: float,
    window: int | None,
    cap: float,
) -> torch.Tensor:
    """The reference has no soft cap yet; the same with one."""
    heads = pool.shape[0] // 2
    out = torch.empty(q_RGHD.shape, dtype=torch.float64)
    for row, position in enumerate(positions):
        first = 0 if window is None else max(0, position + 1 - window)
        seen = slots[row][first : position + 1]
        scores = torch.einsum("ghd,hld->ghl", q_RGHD[row].double(), pool[:heads, seen].double()) * scale
        weights = torch.softmax(cap * torch.tanh(scores / cap), -1)
        out[row] = torch.einsum("ghl,hld->ghd", weights, pool[heads:, seen].double())
    return out


def _case(
    items: list[tuple[int, int, int]],
    heads: int,
    kv_heads: int,
    dim: int,
    page: int,
    dtype: torch.dtype,
    group_major: bool = False,
    deterministic: bool = False,
) -> Case:
    """items: (shared tokens, start, length) of each sequence. Unwritten slots are NaN, scratch too."""
    rng = random.Random(str((items, heads, dim, page)))
    free = list(range(1, NUM_BLOCKS * 16 // page + 8))
    rng.shuffle(free)
    kv = torch.full((len(free) + 1, 2, kv_heads, page, dim), torch.nan, dtype=dtype)
    trunk = [free.pop() for _ in range(512 // page)]
    rows = []
    for shared, start, length in items:
        need = -(-(start + length) // page) - shared // page
        blocks = trunk[: shared // page] + [free.pop() for _ in range(need)]
        rows.append(Rows(start, length, blocks))
        for position in range(start + length):
            spot = kv[blocks[position // page], :, :, position % page]
            if spot.isnan().any():
                spot.copy_(torch.randn(2, kv_heads, dim))
    rows.sort(key=lambda item: item.blocks)
    positions = [item.start + i for item in rows for i in range(item.length)]
    q = torch.randn(len(positions), heads, dim).to(dtype)
    shape = AttentionShape(heads, kv_heads, dim, page, dtype, dim**-0.5, group_major, deterministic)
    return Case(rows, shape, q, kv, positions)


def _close(result: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    error = torch.linalg.vector_norm(result.double() - expected) / torch.linalg.vector_norm(expected)
    assert error < TOLERANCE[dtype], float(error)  # NaN fails


MIXED = [(512, 530, 1), (512, 515, 1), (256, 256, 1), (256, 300, 9), (0, 0, 21), (0, 254, 3)]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "page", "dtype"),
    [
        (4, 2, 32, 16, torch.float32),
        (4, 2, 32, 16, torch.float16),
        (3, 3, 64, 16, torch.float16),
        (4, 1, 128, 64, torch.float16),
        (7, 1, 64, 32, torch.float16),
        (6, 2, 24, 256, torch.float16),
    ],
)
def test_decode_prefill_and_shared_prefixes_in_one_step_are_the_reference(
    heads: int, kv_heads: int, dim: int, page: int, dtype: torch.dtype
) -> None:
    case = _case(MIXED, heads, kv_heads, dim, page, dtype)
    _close(case.run(share=page < 64), case.expected(), dtype)


@pytest.mark.parametrize(("window", "soft_cap"), [(1, None), (100, 5.0), (300, None)])
def test_windows_and_soft_caps_are_the_reference(window: int, soft_cap: float | None) -> None:
    case = _case(MIXED[1:4], 4, 2, 32, 16, torch.float32)
    _close(case.run(True, window, soft_cap), case.expected(window, soft_cap), torch.float32)


@pytest.mark.filterwarnings("ignore:overflow encountered")  # numpy's; exp2(inf) is what is meant
def test_a_soft_cap_holds_for_scores_far_beyond_it() -> None:
    case = _case([(0, 70, 2)], 2, 1, 32, 16, torch.float32)
    case.q_RHD *= 1000
    _close(case.run(False, None, 3.0), case.expected(None, 3.0), torch.float32)


def test_group_major_query_heads_give_the_same_result() -> None:
    case = _case(MIXED[2:4], 6, 2, 32, 16, torch.float32, group_major=True)
    _close(case.run(share=True), case.expected(), torch.float32)


def test_deterministic_rows_do_not_depend_on_the_rows_beside_them() -> None:
    case = _case(MIXED[:4], 4, 2, 32, 16, torch.float16, deterministic=True)
    together = case.run(share=True)
    assert torch.equal(together, case.run(share=False))
    begin = 0
    for item in case.rows:
        alone = Case(
            [item],
            case.shape,
            case.q_RHD[begin : begin + item.length],
            case.kv,
            list(range(item.start, item.start + item.length)),
        )
        assert torch.equal(alone.run(share=True), together[begin : begin + item.length])
        begin += item.length


def test_tiles_of_long_page_runs_are_the_reference() -> None:
    """A run need not be a chunk of 256 keys: here one tile for 530 keys and 5 rows, M not full."""
    case = _case([(0, 530, 5)], 4, 2, 32, 16, torch.float32)
    blocks = np.array(case.rows[0].blocks, np.int32)
    tiles = np.array([[0, 5, 0, len(blocks), 0, 0]], np.int32)
    arranged = arrange_plan(tiles, 5, case.shape, CPU)
    plan = upload_plan(arranged, blocks, np.array(case.positions), CPU)
    workspace = new_workspace(arranged.parts, case.shape, CPU)
    out = torch.full_like(case.q_RHD, torch.nan)
    paged_attention(case.q_RHD, case.kv, plan, workspace, out, case.shape)
    _close(out, case.expected(), torch.float32)


def test_a_row_that_sees_nothing_of_a_tile_has_no_weight_and_padding_becomes_zeros() -> None:
    case = _case([(0, 300, 1)], 2, 1, 32, 16, torch.float32, deterministic=True)
    host = build_plan(case.rows, 16, True)
    arranged = arrange_plan(host.tiles, 2, case.shape, CPU)  # a second row, without parts
    plan = upload_plan(arranged, host.pages, np.array([300, 0]), CPU)
    workspace = new_workspace(2, case.shape, CPU)
    attend_tiles(case.q_RHD, case.kv, plan, workspace, case.shape, window=10)
    assert (workspace.lse_QH[0] == float("-inf")).all()
    assert workspace.lse_QH[1].isfinite().all()
    out = torch.full((2, 2, 32), torch.nan)
    merge_parts(plan, workspace, out)
    _close(out[:1], case.expected(window=10), torch.float32)
    assert torch.equal(out[1], torch.zeros(2, 32))


def test_a_launch_for_more_tiles_than_there_are_reads_their_number_on_the_device() -> None:
    """As a captured graph replays: buffers and grids for the largest step, contents of a smaller one."""
    case = _case(MIXED[1:4], 4, 2, 32, 16, torch.float32)
    host = build_plan(case.rows, 16, True)
    arranged = arrange_plan(host.tiles, len(case.positions), case.shape, CPU)
    plan = upload_plan(arranged, host.pages, np.array(case.positions), CPU)
    garbage = torch.full((9, 6), 10**6, dtype=torch.int32)
    plan = replace(plan, tiles_T6=torch.cat((plan.tiles_T6, garbage)), launched=(50,) * len(plan.launched))
    out = torch.full_like(case.q_RHD, torch.nan)
    workspace = new_workspace(arranged.parts, case.shape, CPU)
    paged_attention(case.q_RHD, case.kv, plan, workspace, out, case.shape)
    _close(out, case.expected(), torch.float32)


def test_addresses_beyond_two_to_the_31_elements_are_reached() -> None:
    """Blocks that lie 2^28 elements apart in (untouched, so unpaid) memory."""
    stride = 2**28
    kv = torch.empty(9 * stride + 2 * 16 * 32, dtype=torch.float16).as_strided(
        (10, 2, 1, 16, 32), (stride, 512, 512, 32, 1)
    )
    kv[9] = torch.randn(2, 1, 16, 32)
    shape = AttentionShape(1, 1, 32, 16, torch.float16, 32**-0.5)
    case = Case([Rows(15, 1, [9])], shape, torch.randn(1, 1, 32).half(), kv, [15])
    got = case.run(share=True)
    small = Case([Rows(15, 1, [0])], shape, case.q_RHD, kv[9:].contiguous(), [15])
    _close(got, small.expected(), torch.float16)


def test_a_tensor_that_does_not_fit_names_its_argument() -> None:
    case = _case([(0, 3, 1)], 2, 1, 32, 16, torch.float32)
    case.q_RHD = case.q_RHD.double()
    with pytest.raises(ValueError, match="q, kv"):
        case.run(share=False)
    with pytest.raises(ValueError, match="window"):
        _case([(0, 3, 1)], 2, 1, 32, 16, torch.float32).run(share=False, window=0)
