"""Paged attention in bf16 on a GPU: the reference's results, and the bits of deterministic mode."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

pytest.importorskip("triton")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA GPU", allow_module_level=True)

from engine.plan import Rows, build_plan
from ops import reference
from ops.cuda_attention import AttentionShape, arrange_plan, new_workspace, paged_attention, upload_plan

DEVICE = torch.device("cuda")
TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 1e-3, torch.float32: 1e-5}
NUM_TOKENS = 16384


def _forest(rng: random.Random, page: int) -> list[Rows]:
    """Sequences some of which share 512 or 1,024 tokens; decode rows, short and long prefills."""
    free = list(range(1, NUM_TOKENS // page))
    rng.shuffle(free)
    trunk = [free.pop() for _ in range(1024 // page)]
    rows = []
    for _ in range(12):
        shared = rng.choice([0, 512, 512, 1024]) // page
        start = shared * page + rng.choice([0, 1, 70, 300])
        length = rng.choice([1, 1, 1, 1, 3, 65, 200])
        need = -(-(start + length) // page) - shared
        rows.append(Rows(start, length, trunk[:shared] + [free.pop() for _ in range(need)]))
    return sorted(rows, key=lambda item: item.blocks)


def _run(
    rows: list[Rows],
    shape: AttentionShape,
    q_RHD: torch.Tensor,
    kv: torch.Tensor,
    share: bool,
    window: int | None = None,
) -> torch.Tensor:
    plan = build_plan(rows, shape.block_size, share)
    positions = np.concatenate([np.arange(item.start, item.start + item.length) for item in rows])
    arranged = arrange_plan(plan.tiles, len(positions), shape, DEVICE)
    device_plan = upload_plan(arranged, plan.pages, positions, DEVICE)
    workspace = new_workspace(arranged.parts, shape, DEVICE)
    workspace.out_QHD.fill_(torch.nan)
    workspace.lse_QH.fill_(torch.nan)
    out = torch.full_like(q_RHD, torch.nan)
    paged_attention(q_RHD, kv, device_plan, workspace, out, shape, window)
    return out


def _memory(rows: list[Rows], shape: AttentionShape) -> torch.Tensor:
    """KV memory in which only what the sequences wrote is not NaN."""
    page = shape.block_size
    kv = torch.randn(NUM_TOKENS // page, 2, shape.kv_heads, page, shape.head_dim).to(shape.dtype)
    written = torch.zeros(NUM_TOKENS // page, page, dtype=torch.bool)
    for item in rows:
        at = torch.arange(item.start + item.length)
        written[torch.tensor(item.blocks)[at // page], at % page] = True
    return kv.masked_fill(~written[:, None, None, :, None], torch.nan)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "page"),
    [(8, 2, 128, 16), (4, 4, 64, 16), (7, 1, 128, 64), (16, 1, 64, 32), (3, 3, 96, 256), (2, 1, 256, 16)],
)
@pytest.mark.parametrize("window", [None, 300])
def test_paged_attention_is_the_reference(
    heads: int, kv_heads: int, dim: int, page: int, window: int | None, dtype: torch.dtype
) -> None:
    rng = random.Random(f"{heads}{dim}{page}{window}")
    shape = AttentionShape(heads, kv_heads, dim, page, dtype, dim**-0.5)
    rows = _forest(rng, page)
    kv = _memory(rows, shape)
    positions = [item.start + i for item in rows for i in range(item.length)]
    q = torch.randn(len(positions), heads, dim).to(dtype)
    slots = [
        [block * page + i for block in item.blocks for i in range(page)]
        for item in rows
        for _ in range(item.length)
    ]
    pool = kv.permute(1, 2, 0, 3, 4).reshape(2 * kv_heads, -1, dim)
    q_RGHD = q.view(-1, kv_heads, heads // kv_heads, dim).transpose(1, 2)
    expected = reference.paged_attention(q_RGHD, pool, slots, positions, shape.scale, window)
    out = _run(rows, shape, q.to(DEVICE), kv.to(DEVICE), True, window).cpu().double()
    expected = expected.transpose(1, 2).reshape(out.shape)
    error = torch.linalg.vector_norm(out - expected) / torch.linalg.vector_norm(expected)
    assert error < TOLERANCE[dtype], float(error)


@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(32, 8, 128), (16, 8, 64), (28, 4, 128)])
def test_deterministic_rows_do_not_depend_on_the_rows_beside_them(
    heads: int, kv_heads: int, dim: int
) -> None:
    shape = AttentionShape(heads, kv_heads, dim, 16, torch.bfloat16, dim**-0.5, deterministic=True)
    rows = _forest(random.Random(heads), 16)
    kv = _memory(rows, shape).to(DEVICE)
    q = torch.randn(sum(item.length for item in rows), heads, dim, device=DEVICE).bfloat16()
    together = _run(rows, shape, q, kv, share=True)
    assert torch.equal(together, _run(rows, shape, q, kv, share=False))
    begin = 0
    for item in rows:
        for size in (1, item.length):
            part = Rows(item.start, size, item.blocks)
            alone = _run([part], shape, q[begin : begin + size], kv, share=True)
            assert torch.equal(alone, together[begin : begin + size])
        begin += item.length


def test_addresses_beyond_two_to_the_31_elements_are_reached() -> None:
    """A KV memory of 2^31 elements and more (4.3 GB in bf16), its last block in use."""
    shape = AttentionShape(4, 1, 128, 16, torch.bfloat16, 128**-0.5)
    blocks = 2**31 // (2 * 16 * 128) + 2
    kv = torch.empty(blocks, 2, 1, 16, 128, dtype=torch.bfloat16, device=DEVICE)
    kv[-1].normal_()
    q = torch.randn(1, 4, 128, device=DEVICE).bfloat16()
    far = _run([Rows(15, 1, [blocks - 1])], shape, q, kv, share=True)
    near = _run([Rows(15, 1, [0])], shape, q, kv[-1:].clone(), share=True)
    assert torch.equal(far, near)
