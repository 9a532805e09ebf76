"""Paged attention on the CPU: the calls of torch's flash kernel that a prepared step makes in every layer.

One routine serves decode, prefill and shared prefixes, because a row's result must not depend on which of
them it came through. Invariant (batch invariance): the partial result of a row over a 256-key chunk is a
function of the row's query, its position and the chunk's keys. To that end

- keys are cut at absolute multiples of 256, and a row sees ceil(visible keys / 64) * 64 keys of its last
  chunk, a function of its position alone, those after its own masked. A row past a chunk's end is never
  masked there, a row inside it always, since the kernel rounds differently with a mask;
- the kernel gets query rows in multiples of `query_quantum` (found by `choose_query_quantum`); what pads
  them are the rows that follow in the query buffer, whose results are dropped;
- partial results are merged in fp32 in ascending order of chunks, every product and sum rounded on its own.

The pool of a layer is [2 x kv_heads, slots, head_dim], heads first, so that consecutive blocks are one
strided view and a chunk in consecutive blocks is read in place. Scattered chunks are gathered where that is
cheaper than a call for each. (A gather of everything costs as much as the attention itself.)

Query heads are *group-major*, [rows, group, kv_heads, head_dim] with group = heads / kv_heads: then the rows
of a tile and the heads of a group are one axis of constant stride, and queries and results need no copies.
The loader permutes the projections accordingly.

Left to `ops.cpu_tiles`: which calls a plan comes to.

Shapes: R rows, T tiles of a call, N rows of a tile, G group, H kv_heads, A = G x H, L keys, D head_dim.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

logger = logging.getLogger(__name__)

CHUNK = 256
KEY_STEP = 64
"""Keys: the granularity of what a row reads of its last chunk."""

QUERY_BLOCK = 32
"""Query rows up to which the flash kernel makes one task of a (tile, head)."""

QUERY_QUANTA = (4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Geometry:
    """What all attention layers of a model share. scale multiplies the query-key products."""

    group: int
    kv_heads: int
    head_dim: int
    block_size: int
    num_slots: int
    dtype: torch.dtype
    scale: float
    query_quantum: int

    @property
    def query_width(self) -> int:
        """Elements of one row's queries."""
        return self.group * self.kv_heads * self.head_dim

    def padded_queries(self, rows: int) -> int:
        """Query rows of a tile as the kernel gets them."""
        return -(-rows * self.group // self.query_quantum) * self.query_quantum

    def places(self, rows: int) -> int:
        """Of a tile's rows among a call's results: their own, and those of its padding where that saves a copy."""
        padded = self.padded_queries(rows)
        return rows if padded % self.group else padded // self.group

    def query_buffer(self, rows: int) -> torch.Tensor:
        """Zeroed, flat: the queries of `rows` rows and the spare ones that padding may read."""
        spare = self.query_quantum * self.kv_heads * self.head_dim
        return torch.zeros(rows * self.query_width + spare, dtype=self.dtype)


@dataclass(frozen=True, slots=True)
class QueryView:
    """Where a call's queries lie. Strides and offsets in elements; `rows`: gather these rows of the buffer
    first.
    """

    tile_stride: int
    offset: int
    rows: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class KeyView:
    """Where a call's keys lie. In slots; `pages`: gather these blocks first, the same number for each tile.

    gathered: for those of a layer, [2 x H, blocks, block_size x D]. (The pages of a fresh buffer would be mapped
    anew in each layer, which takes as long as the copy.)
    """

    tile_stride: int
    offset: int
    pages: torch.Tensor | None = None
    gathered: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One kernel call over `tiles` tiles of `rows` rows that read `keys` keys each.

    mask: additive, [T or 1, 1, N x G padded or 1, L]; None: every row sees every key. newest: of tiles of one row,
    the place of the last key that each sees in the flat mask; None: of others. passed: the tiles the
    kernel gets. 2 instead of 1 where a single task would run outside a parallel region, so that the BLAS
    library threads inside it and rounds differently. places: `Geometry.places`. views: what the
    kernel gets of each buffer of queries, keys and values, by address, made when first needed.
    """

    geometry: Geometry
    tiles: int
    rows: int
    keys: int
    passed: int
    places: int
    query_view: QueryView
    key_view: KeyView
    mask: torch.Tensor | None
    newest: torch.Tensor | None = None
    views: dict[int, tuple[torch.Tensor, ...]] = field(default_factory=dict, repr=False)

    def run(self, queries: torch.Tensor, kv_pool_KSD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns out [passed x places, A x D] and its log-sum-exp in fp32, [passed x places, A]: row n of tile t
        is at t x places + n."""
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default(
            self._queries(queries),
            *self._keys_and_values(kv_pool_KSD),
            attn_mask=self.mask,
            scale=self.geometry.scale,
        )
        geometry, used = self.geometry, self.places * self.geometry.group
        out, lse = out.transpose(1, 2), lse.transpose(1, 2)
        if used < out.shape[1]:
            out, lse = out[:, :used], lse[:, :used]
        return out.reshape(-1, geometry.query_width), lse.reshape(-1, geometry.group * geometry.kv_heads)

    def _queries(self, queries: torch.Tensor) -> torch.Tensor:
        if self.query_view.rows is not None:
            width = self.geometry.query_width
            rows = queries.numel() // width
            gathered = queries[: rows * width].view(rows, width).index_select(0, self.query_view.rows)
            return self._view_queries(gathered)
        key = queries.data_ptr()
        if key not in self.views:
            self.views[key] = (self._view_queries(queries),)
        return self.views[key][0]

    def _view_queries(self, queries: torch.Tensor) -> torch.Tensor:
        geometry, view = self.geometry, self.query_view
        heads, dim = geometry.kv_heads, geometry.head_dim
        size = (self.passed, heads, geometry.padded_queries(self.rows), dim)
        return queries.as_strided(size, (view.tile_stride, dim, heads * dim, 1), view.offset)

    def _keys_and_values(self, pool_KSD: torch.Tensor) -> tuple[torch.Tensor, ...]:
        view, source = self.key_view, pool_KSD
        if view.pages is not None:
            blocks = pool_KSD.view(pool_KSD.shape[0], -1, self.geometry.block_size * self.geometry.head_dim)
            source = torch.index_select(blocks, 1, view.pages, out=view.gathered)
        key = source.data_ptr()
        if key not in self.views:
            self.views[key] = self._view_keys(source)
        return self.views[key]

    def _view_keys(self, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both of them in the pool's layout, as the kernel takes them."""
        heads, dim, view = self.geometry.kv_heads, self.geometry.head_dim, self.key_view
        values = source.numel() // 2
        offset = source.storage_offset() + view.offset * dim
        size = (self.passed, heads, self.keys, dim)
        strides = (view.tile_stride * dim, values // heads, dim, 1)
        return source.as_strided(size, strides, offset), source.as_strided(size, strides, offset + values)


@dataclass(frozen=True, slots=True)
class Merge:
    """How rows with several partial results come by their one.

    order: the place of each part among the calls' results, int64 [P x R], ranks outermost; None: they lie so
    already. Rows with fewer parts than `ranks` repeat their first, which `absent` [P, R, 1] cancels (None: all
    have as many).
    """

    ranks: int
    order: torch.Tensor | None
    absent: torch.Tensor | None

    def run(self, outs: torch.Tensor, lses: torch.Tensor) -> torch.Tensor:
        """outs: [all parts, A, D], overwritten; lses: fp32 [all parts, A]. Returns [R, A, D]; see
        `ops.reference.merge_states`.
        """
        if self.order is not None:
            outs, lses = outs.index_select(0, self.order), lses.index_select(0, self.order)
        weights_PRA = lses.view(self.ranks, -1, lses.shape[1])
        if self.absent is not None:
            weights_PRA.masked_fill_(self.absent, float("-inf"))
        weights_PRA = torch.sub(weights_PRA, weights_PRA.amax(0)).exp_()
        weighted = outs.float().view(*weights_PRA.shape, -1).mul_(weights_PRA.unsqueeze(-1)).unbind(0)
        merged, total = weighted[0], weights_PRA[0].clone()
        for rank in range(1, self.ranks):
            merged.add_(weighted[rank])
            total.add_(weights_PRA[rank])
        return merged.div_(total.unsqueeze(-1)).to(outs.dtype)


@dataclass(frozen=True, slots=True)
class AttentionStep:
    """One step's attention, prepared once and run by every layer with the same window.

    order: the calls' results as rows of the batch, int64 [padded rows]; None: already in order. Ignored with
    merge.
    """

    geometry: Geometry
    calls: tuple[Call, ...]
    order: torch.Tensor | None
    merge: Merge | None

    def see_one_more(self) -> bool:
        """Let every masked row see the key after its last; False, and nothing is changed, where that is not one
        number in a mask.
        """
        masked = [(call.mask, call.newest) for call in self.calls if call.mask is not None]
        if any(newest is None for _, newest in masked):
            return False
        for mask, newest in masked:
            assert newest is not None
            mask.view(-1).index_fill_(0, newest.add_(1), 0.0)
        return True

    def run(self, queries: torch.Tensor, kv_pool_KSD: torch.Tensor) -> torch.Tensor:
        """queries: a `Geometry.query_buffer`, filled. Returns [padded rows, G x H x D]."""
        results = [call.run(queries, kv_pool_KSD) for call in self.calls]
        out = results[0][0] if len(results) == 1 else torch.cat([out for out, _ in results])
        if self.merge is None:
            return out if self.order is None else out.index_select(0, self.order)
        heads = self.geometry.group * self.geometry.kv_heads
        lse = results[0][1] if len(results) == 1 else torch.cat([lse for _, lse in results])
        merged = self.merge.run(out.view(-1, heads, self.geometry.head_dim), lse)
        return merged.view(-1, self.geometry.query_width)


def choose_query_quantum(
    kv_heads: int, head_dim: int, dtype: torch.dtype, set_threads: Callable[[int], None], threads: int
) -> int:
    """The smallest number of query rows whose multiples agree row by row, at one and at `threads` threads.

    Measured with torch 2.13: on AMD EPYC (no AMX) 1, 2 and 3 rows, and blocks that leave 1 row over, round
    differently from the rest; multiples of 4 agree up to 1,104. Costs about 5 ms for 4 heads of 64.
    """
    for quantum in QUERY_QUANTA:
        if _queries_agree(quantum, kv_heads, head_dim, dtype, set_threads, threads):
            logger.info("attention: query rows agree in multiples of %d", quantum)
            return quantum
    logger.warning("attention: query rows agree under no quantum tried; using %d", QUERY_QUANTA[-1])
    return QUERY_QUANTA[-1]


def passed_tiles(tiles: int, kv_heads: int, queries: int) -> int:
    """`Call.passed` for a call of `tiles` tiles with `queries` padded query rows."""
    return 2 if tiles * kv_heads == 1 and queries <= QUERY_BLOCK else tiles


def _queries_agree(
    quantum: int,
    kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    set_threads: Callable[[int], None],
    threads: int,
) -> bool:
    generator = torch.Generator().manual_seed(0)
    counts = sorted({quantum * -(-n // quantum) for n in (1, 9, 33, 68, 192, 196)})
    q, k, v = (
        torch.randn(rows, kv_heads, head_dim, generator=generator).to(dtype)
        for rows in (counts[-1], CHUNK, CHUNK)
    )
    hidden = torch.arange(CHUNK)[None] > torch.arange(CHUNK - counts[-1], CHUNK)[:, None]
    mask = torch.zeros(counts[-1], CHUNK, dtype=dtype).masked_fill_(hidden, float("-inf"))
    for keys, masked in ((KEY_STEP, False), (CHUNK, False), (CHUNK, True)):
        expected: torch.Tensor | None = None
        for count in sorted({1, threads}, reverse=True):
            set_threads(count)
            for rows in reversed(counts):
                passed = passed_tiles(1, kv_heads, rows)
                views = (
                    x[:n].transpose(0, 1).expand(passed, -1, -1, -1)
                    for x, n in ((q, rows), (k, keys), (v, keys))
                )
                out = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default(
                    *views, attn_mask=mask[:rows] if masked else None
                )[0][0]
                expected = out if expected is None else expected
                if not torch.equal(out, expected[:, :rows]):
                    return False
    return True
