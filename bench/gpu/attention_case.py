"""Attention problems: sequences over shuffled pages, the call that computes them, the plain result, their floors.

Responsible for: `Case`, from which the kernel tables and the tuning table are made. Bytes are the fewest that any
kernel moves: every key and value once, queries and results once. Leaves to others: time and verdicts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bench.gpu.machine import Machine
from engine.plan import Rows, build_plan
from ops.cuda_attention import AttentionShape, arrange_plan, new_workspace, paged_attention, upload_plan


@dataclass(frozen=True, slots=True)
class Layout:
    """Lengths of a batch: `prefix` tokens in common, `suffixes` of each sequence's own, of which `new` are rows."""

    prefix: int
    suffixes: tuple[int, ...]
    new: int = 1

    @property
    def stored_tokens(self) -> int:
        return self.prefix + sum(self.suffixes)

    @property
    def pairs(self) -> int:
        """(query, key) pairs under the causal mask."""
        lengths = (self.prefix + suffix for suffix in self.suffixes)
        return sum(self.new * length - self.new * (self.new - 1) // 2 for length in lengths)


@dataclass(frozen=True, slots=True)
class Case:
    """One batch in a layer's KV memory: q [rows, heads, dim], kv [blocks, 2, kv_heads, page, dim]."""

    layout: Layout
    shape: AttentionShape
    rows: tuple[Rows, ...]
    q_RHD: torch.Tensor
    kv: torch.Tensor

    @property
    def floor_bytes(self) -> int:
        token = 2 * self.shape.kv_heads * self.shape.head_dim * self.kv.element_size()
        return self.layout.stored_tokens * token + 2 * self.q_RHD.nbytes

    @property
    def operations(self) -> int:
        return 4 * self.layout.pairs * self.shape.heads * self.shape.head_dim

    def expected(self, row: int) -> torch.Tensor:
        """Row `row` by plain attention in fp32: [heads, dim]."""
        item, within = _locate(self.rows, row)
        pages = self.kv[torch.tensor(item.blocks, device=self.kv.device)].float()
        shape = self.shape
        keys, values = pages.permute(1, 2, 0, 3, 4).reshape(2, shape.kv_heads, -1, shape.head_dim)
        seen = item.start + within + 1
        query = self.q_RHD[row].float()
        if shape.group_major:
            query = query.view(shape.group, shape.kv_heads, -1).transpose(0, 1)
        query = query.reshape(shape.kv_heads, shape.group, -1)
        weights = torch.softmax(query @ keys[:, :seen].transpose(1, 2) * shape.scale, -1)
        result: torch.Tensor = weights @ values[:, :seen]
        if shape.group_major:
            result = result.transpose(0, 1)
        return result.reshape(shape.heads, shape.head_dim)


def make_case(machine: Machine, layout: Layout, shape: AttentionShape, seed: int = 0) -> Case:
    """Random data; pages in random order, sequences in the order of their pages as a batch has them."""
    page = shape.block_size
    if layout.prefix % page:
        raise ValueError(f"a prefix of {layout.prefix} tokens is no whole number of pages of {page}")
    shared = layout.prefix // page
    needs = [-(-suffix // page) for suffix in layout.suffixes]
    ids = list(range(1, shared + sum(needs) + 1))
    random.Random(seed).shuffle(ids)
    trunk, rest = ids[:shared], iter(ids[shared:])
    rows = [
        Rows(layout.prefix + suffix - layout.new, layout.new, trunk + [next(rest) for _ in range(need)])
        for suffix, need in zip(layout.suffixes, needs, strict=True)
    ]
    kv_shape = (len(ids) + 1, 2, shape.kv_heads, page, shape.head_dim)
    return Case(
        layout,
        shape,
        tuple(sorted(rows, key=lambda item: item.blocks)),
        machine.randn(len(rows) * layout.new, shape.heads, shape.head_dim),
        torch.empty(kv_shape, device=machine.device, dtype=shape.dtype).normal_(),
    )


def attention_call(
    machine: Machine, case: Case, share: bool, shape: AttentionShape | None = None
) -> tuple[Callable[[], None], torch.Tensor]:
    """The kernels' call on a plan that is on the device already, and its result, filled with NaN. shape: instead
    of the case's, to try another configuration."""
    shape = shape or case.shape
    plan = build_plan(case.rows, shape.block_size, share)
    positions = np.concatenate([np.arange(item.start, item.start + item.length) for item in case.rows])
    arranged = arrange_plan(plan.tiles, len(positions), shape, machine.device)
    device_plan = upload_plan(arranged, plan.pages, positions, machine.device)
    workspace = new_workspace(arranged.parts, shape, machine.device)
    out = torch.full_like(case.q_RHD, torch.nan)

    def call() -> None:
        paged_attention(case.q_RHD, case.kv, device_plan, workspace, out, shape)

    return call, out


def right(machine: Machine, case: Case, out: torch.Tensor, samples: int = 64) -> tuple[bool, str]:
    """Whether `out` is finite everywhere and plain attention's in up to so many rows; the largest error found."""
    count = len(out)
    picked = range(count) if count <= samples else sorted(random.Random(1).sample(range(count), samples))
    expected = torch.stack([case.expected(row) for row in picked])
    found = out[torch.tensor(list(picked), device=out.device)]
    ok = bool(out.isfinite().all()) and machine.close(found, expected)
    return ok, f"error {machine.error(found, expected):.2e} over {len(picked)} of {count} rows"


def uniform(seed: int, batch: int, low: int, high: int) -> tuple[int, ...]:
    """`batch` lengths in [low, high]."""
    rng = random.Random(seed)
    return tuple(rng.randint(low, high) for _ in range(batch))


def _locate(rows: Sequence[Rows], row: int) -> tuple[Rows, int]:
    """The sequence that a batch's row belongs to, and which of its rows it is."""
    for item in rows:
        if row < item.length:
            return item, row
        row -= item.length
    raise IndexError("the batch has fewer rows")
