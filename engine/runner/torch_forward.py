"""Logits by torch calls: for every family and dtype that the engine serves.

Owns the decoder, its buffers and what is kept from step to step. Rows are padded to the row policy of the linears
and the query quantum of attention, both of which self-tests find at start: that is how the contract holds whatever
the libraries beneath do. Left to others: the layers themselves (`engine.models.decoder`), which rows there are.
"""

from __future__ import annotations

import math

import torch

from engine.batch import AttentionPlan
from engine.models.attention import LastRows, RowTile, StepState
from engine.models.decoder import Decoder
from engine.models.layers import RotaryTable
from engine.runner.batch import LEFT_OUT, StepInputs, slot_runs
from engine.runner.kv_cache import KvCache
from engine.runner.threads import use_torch_threads
from ops.attention import Geometry, Plan, PreparedSteps, choose_query_quantum, plan_of_rows, prepare
from ops.linear import RowPolicy, choose_row_policy
from ops.rope import RopeStep


class TorchForward:
    """Buffers are made for `max_rows` rows, and grow with a step that has more."""

    def __init__(
        self, decoder: Decoder, cache: KvCache, policy: RowPolicy, geometry: Geometry, max_rows: int
    ) -> None:
        config = decoder.config
        self._decoder, self._cache, self._policy, self._geometry = decoder, cache, policy, geometry
        self._rotary = RotaryTable(config.rope, config.head_dim, cache.sizes.max_model_len)
        self._windows = frozenset(config.windows)
        self._max_rows = policy.padded(max_rows)
        self._queries = geometry.query_buffer(self._max_rows)
        self._last_queries = geometry.query_buffer(policy.tile)
        self._prepared = PreparedSteps(geometry)

    def padded(self, rows: int) -> int:
        return self._policy.padded(rows)

    def use_threads(self, threads: int) -> None:
        use_torch_threads(threads)

    @torch.inference_mode()
    def compute(self, inputs: StepInputs, plan: AttentionPlan) -> torch.Tensor:
        padded_rows = len(inputs.ids)
        if padded_rows > self._max_rows:
            self._max_rows = padded_rows
            self._queries = self._geometry.query_buffer(padded_rows)
        arrays = Plan(plan.tiles, plan.pages, plan.merge_offsets, plan.merge_parts, inputs.positions)
        step = StepState(
            tiles=self._tiles(inputs),
            queries=self._queries,
            attention={window: self._prepared.at(arrays, padded_rows, window) for window in self._windows},
            logit_tile=self._policy.tile,
            last=self._last_rows(inputs, arrays),
        )
        return self._decoder.forward(inputs.ids, step, self._cache.layers, inputs.logit_rows)

    def _last_rows(self, inputs: StepInputs, plan: Plan) -> LastRows | None:
        rows = inputs.logit_rows
        if rows is None or inputs.scored or not inputs.sampled:
            return None
        if len(rows) > min(self._policy.tile, len(inputs.ids) - LEFT_OUT):
            return None
        own = plan_of_rows(plan, rows[: len(inputs.sampled)].numpy())
        attention = prepare(own, self._geometry, len(rows), self._decoder.config.windows[-1])
        return LastRows(rows, self._last_queries, attention)

    def _tiles(self, inputs: StepInputs) -> tuple[RowTile, ...]:
        rotation, slots = self._rotary.at(inputs.padded_positions), inputs.kv_slots
        rows = len(inputs.positions)

        def rope(begin: int, end: int) -> RopeStep:
            runs = slot_runs(slots[begin : min(end, rows)].numpy())
            return RopeStep(rotation[begin:end], slots[begin:end], runs)

        return tuple(RowTile(begin, end, rope(begin, end)) for begin, end in self._policy.tiles(len(slots)))


def make_torch_forward(
    decoder: Decoder, cache: KvCache, dtype: torch.dtype, threads: int, max_rows: int
) -> TorchForward:
    """Find by self-test what this CPU's libraries keep the contract with, on 1 and on `threads` threads."""
    model, sizes = decoder.config, cache.sizes
    with torch.inference_mode():
        policy = choose_row_policy(*decoder.linears(), dtype, use_torch_threads, threads, decoder.head)
        quantum = choose_query_quantum(model.num_kv_heads, model.head_dim, dtype, use_torch_threads, threads)
    geometry = Geometry(
        group=model.num_heads // model.num_kv_heads,
        kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        block_size=sizes.block_size,
        num_slots=sizes.num_blocks * sizes.block_size,
        dtype=dtype,
        scale=1.0 / math.sqrt(model.head_dim),
        query_quantum=quantum,
    )
    return TorchForward(decoder, cache, policy, geometry, max_rows)
