"""The Runner on a GPU: a decoder in Triton kernels and cuBLAS over a paged KV cache.

Owns weights, KV memory, slot tables, sampling state and the step's buffers. `launch` returns once a step's kernels
are queued; its handle waits for the tokens. So step n + 1 is launched before the results of step n are looked at:

    host     launch n | launch n+1 | wait n, commit n, schedule n+2 | launch n+2 | wait n+1 ...
    device            | n .................... | n+1 .................... | n+2 ...

Decode inputs come from the device: a row's id is its slot's last sample. Everything runs on one stream, so that a
buffer may be filled for the next step while this one computes: the copy waits its turn. Under Triton's interpreter
the same code runs on CPU tensors, without streams and graphs.

Deterministic, a position's logits are a function of its own sequence's ids (as on the CPU, with other bits); else
they may differ in the last bits with the batch. Left to others: what runs when, what a token means.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from engine.batch import AttentionPlan, DeviceLost, SampledTokens, ScheduledBatch, ScheduledSequence
from engine.models.attention import RowTile, StepState
from engine.models.decoder import Decoder
from engine.models.layers import rope_table
from engine.runner.cuda_graphs import StepGraphs
from engine.runner.device_batch import BatchRows, PackedStep, RowTables, pack
from engine.runner.device_memory import upload
from engine.runner.device_sampler import DeviceSampler, Samples
from engine.runner.kv_cache import KvSizes
from engine.runner.memory_errors import named_memory_errors
from engine.runner.scoring import score
from engine.structured.grammar import Grammars
from ops import cuda
from ops.cuda_attention import (
    AttentionShape,
    DevicePlan,
    PlannedAttention,
    arrange_plan,
    new_workspace,
)
from ops.cuda_tiles import ArrangedPlan

_ALL = 1 << 30
"""Tiles of a launch that is captured: as many programs as there ever are, the ranges say what there is."""


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """max_rows, words, parts: room that the step's buffers begin with; `graphs`: capture decode steps."""

    max_num_seqs: int
    max_rows: int
    graphs: bool
    words: int = 0
    parts: int = 0


def is_fatal(error: RuntimeError) -> bool:
    """Whether it is the device's: from then on every call raises it. (Memory that is short comes back.)"""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error) or "[CUDA]" in str(error)


class StepHandle:
    """A step that was launched. `collect` is called once, when the device has come so far, and let go then."""

    __slots__ = ("_collect", "_event", "_result")

    def __init__(self, event: torch.cuda.Event | None, collect: Callable[[], SampledTokens]) -> None:
        self._event = event
        self._collect: Callable[[], SampledTokens] | None = collect
        self._result: SampledTokens | None = None

    @property
    def done(self) -> bool:
        """The result has been asked for, with whatever outcome."""
        return self._collect is None

    def result(self) -> SampledTokens:
        """Wait for the step's tokens. Raises DeviceLost when the GPU reports an error."""
        if self._collect is not None:
            collect, self._collect = self._collect, None
            self._wait()
            self._result = collect()
        if self._result is None:
            raise RuntimeError("the step's result could not be had before")
        return self._result

    def _wait(self) -> None:
        if self._event is None:
            return
        try:
            self._event.synchronize()
        except RuntimeError as error:  # it is asynchronous: whose kernel it was cannot be known
            raise DeviceLost(f"the GPU failed: {error}") from error


class DeviceRunner:
    """Executes steps on one device. `kv_LN2KSD`: [layers, blocks, 2, kv_heads, block_size, head_dim]."""

    def __init__(
        self,
        decoder: Decoder,
        sizes: KvSizes,
        shape: AttentionShape,
        device: torch.device,
        limits: RunnerLimits,
        grammars: Grammars | None = None,
    ) -> None:
        config = decoder.config
        self.block_size = sizes.block_size
        self.num_blocks = sizes.num_blocks
        self.max_model_len = sizes.max_model_len
        self.vocab_size = config.vocab_size
        self.kv_cache_bytes = sizes.total_bytes
        self.graphs = StepGraphs(limits.max_num_seqs, enabled=limits.graphs)
        self._decoder, self._shape, self._device = decoder, shape, device
        self._limits = limits
        self._kv_LN2KSD = torch.zeros(
            *(config.num_layers, sizes.num_blocks, 2, config.num_kv_heads, sizes.block_size, config.head_dim),
            dtype=shape.dtype,
            device=device,
        )
        self._layers = self._kv_LN2KSD.unbind()
        cos, sin = rope_table(config.rope, config.head_dim, sizes.max_model_len)
        self._cos, self._sin = cos.to(device), sin.to(device)
        max_blocks = -(-sizes.max_model_len // sizes.block_size) + 1
        self._tables = RowTables(limits.max_num_seqs, max_blocks, sizes.block_size, config.vocab_size)
        self._sampler = DeviceSampler(limits.max_num_seqs, config.vocab_size, device, grammars)
        self._windows = frozenset(config.windows)
        self._query_width = shape.heads * shape.head_dim
        self._queries = torch.empty(limits.max_rows * self._query_width, dtype=shape.dtype, device=device)
        self._logits_SV = torch.empty(
            limits.max_num_seqs, config.vocab_size, dtype=shape.dtype, device=device
        )
        self._words = torch.empty(limits.words, dtype=torch.int32, device=device)
        self._workspace = new_workspace(limits.parts, shape, device)
        self._arranged: tuple[AttentionPlan, ArrangedPlan] | None = None
        self._in_flight: deque[StepHandle] = deque()

    def run(self, batch: ScheduledBatch) -> SampledTokens:
        """One step, waited for."""
        return self.launch(batch).result()

    @named_memory_errors()
    @torch.inference_mode()
    def launch(self, batch: ScheduledBatch) -> StepHandle:
        """Queue a step's kernels. Raises DeviceLost; after any other error the next step is good."""
        try:
            return self._launch(batch)
        except RuntimeError as error:
            if is_fatal(error):
                raise DeviceLost(f"the GPU failed: {error}") from error
            raise

    def _launch(self, batch: ScheduledBatch) -> StepHandle:
        rows = self._begin(batch)
        logits, packed = self._compute(rows, batch.plan)
        samples = None
        if rows.sampled:
            if self._sampler.waits(rows.sampled):
                self._settle()
            samples = self._sample(logits, rows, packed)
        blocks = {item.slot: self._tables.blocks(item.slot) for item in rows.sampled}
        scored = logits[len(rows.sampled) :] if rows.scored else None
        collect = partial(self._collect, batch.step_id, samples, blocks, scored, rows.scored)
        handle = StepHandle(self._record(), collect)
        while self._in_flight and self._in_flight[0].done:
            self._in_flight.popleft()
        self._in_flight.append(handle)
        return handle

    @torch.inference_mode()
    def forward(self, batch: ScheduledBatch) -> torch.Tensor:
        """A step without sampling: the logits [sampled sequences, vocab] that `run` would sample from, and behind
        them those of the rows with targets."""
        rows = self._begin(batch)
        logits, _ = self._compute(rows, batch.plan)
        return logits[: len(rows.logit_rows)].clone()

    @property
    def limits(self) -> RunnerLimits:
        """What it was made with, and the room that steps have needed so far."""
        parts = len(self._workspace.lse_QH)
        rows = len(self._queries) // self._query_width
        return replace(self._limits, max_rows=rows, words=len(self._words), parts=parts)

    def _begin(self, batch: ScheduledBatch) -> BatchRows:
        self._tables.apply(batch)
        rows = self._tables.rows(batch)
        self._sampler.install(batch.installs)
        if batch.copies:
            cuda.copy_blocks(self._kv_LN2KSD, upload(np.array(batch.copies, np.int32), self._device))
        return rows

    def _compute(self, rows: BatchRows, plan: AttentionPlan) -> tuple[torch.Tensor, PackedStep]:
        """Logits of the wanted rows, perhaps padded, and where the step's arrays are."""
        arranged = self._arrange(plan, rows.num_rows)
        decodes = rows.all_decode and rows.num_rows <= self._limits.max_num_seqs
        bucket = self.graphs.bucket(rows.num_rows) if decodes else None
        packed = pack(rows, arranged, plan.pages, bucket)
        self._make_room(packed, arranged)
        self._words[: len(packed.words)].copy_(upload(packed.words, self._device), non_blocking=True)
        if bucket is None:
            return self._forward(packed, packed.num_tiles), packed
        used = tuple([tiles > 0 for tiles in packed.num_tiles])
        launched = tuple([_ALL if use else 0 for use in used])
        return self.graphs.run((bucket, used), lambda: self._decode(packed, launched)), packed

    def _decode(self, packed: PackedStep, launched: tuple[int, ...]) -> torch.Tensor:
        """The logits in a buffer of all decode steps: every graph would keep its own otherwise, 2 GB in all."""
        logits = self._logits_SV[: packed.layout.rows]
        return logits.copy_(self._forward(packed, launched))

    def _arrange(self, plan: AttentionPlan, rows: int) -> ArrangedPlan:
        """In steady decoding the plan is the one of the step before."""
        if self._arranged is None or self._arranged[0] is not plan:
            self._arranged = plan, arrange_plan(plan.tiles, rows, self._shape, self._device)
        return self._arranged[1]

    def _make_room(self, packed: PackedStep, arranged: ArrangedPlan) -> None:
        """Buffers double when they have to grow, which is seldom: graphs know their addresses."""
        words, parts = len(self._words), len(self._workspace.lse_QH)
        queries = packed.layout.rows * self._query_width
        if len(packed.words) <= words and arranged.parts <= parts and queries <= len(self._queries):
            return
        self.graphs.forget()
        if queries > len(self._queries):
            self._queries = self._queries.new_empty(queries)
        if len(packed.words) > words:
            self._words = self._words.new_empty(max(len(packed.words), 2 * words))
        if arranged.parts > parts:
            self._workspace = new_workspace(max(arranged.parts, 2 * parts), self._shape, self._device)

    def _forward(self, packed: PackedStep, launched: tuple[int, ...]) -> torch.Tensor:
        layout, rows = packed.layout, packed.layout.rows
        plan = self._plan(packed, launched)
        given = self._view(layout.ids, rows)
        sampled = self._sampler.last_tokens[self._view(layout.slots, rows)]
        ids = torch.where(given < 0, sampled, given)
        rope = cuda.Rope(self._cos, self._sin, plan.positions_R, self._view(layout.kv_slots, rows))
        step = StepState(
            tiles=(RowTile(0, rows, rope),),
            queries=self._queries,
            attention={
                window: PlannedAttention(plan, self._workspace, self._shape, window)
                for window in self._windows
            },
        )
        logit_rows = None if packed.all_logits else self._view(layout.logits, layout.logit_rows)
        return self._decoder.forward(ids, step, self._layers, logit_rows)

    def _plan(self, packed: PackedStep, launched: tuple[int, ...]) -> DevicePlan:
        layout, configs = packed.layout, len(launched)
        return DevicePlan(
            tiles_T6=self._view(layout.tiles, 6 * sum(packed.num_tiles)).view(-1, 6),
            ranges_C2=self._view(layout.ranges, 4 * configs).view(configs, 4)[:, :2],
            pages=self._words,
            positions_R=self._view(layout.positions, layout.rows),
            merge_offsets=self._view(layout.merge_offsets, layout.rows + 1),
            merge_parts=self._words,
            launched=launched,
        )

    def _sample(self, logits: torch.Tensor, rows: BatchRows, packed: PackedStep) -> Samples:
        layout, count = packed.layout, packed.num_samples
        return self._sampler.sample(
            logits[:count],
            rows.sampled,
            self._view(layout.sample_slots, count),
            self._view(layout.sample_positions, 2 * count).view(torch.int64),
            rows.invalid,
        )

    def _settle(self) -> None:
        """Grammars and bad words need the tokens so far; the forward pass runs meanwhile."""
        for handle in self._in_flight:
            if not handle.done:
                handle.result()

    def _view(self, begin: int, length: int) -> torch.Tensor:
        return self._words[begin : begin + length]

    def _record(self) -> torch.cuda.Event | None:
        """An event that comes after everything launched so far; None where nothing is asynchronous."""
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _collect(
        self,
        step_id: int,
        samples: Samples | None,
        blocks: dict[int, tuple[int, ...]],
        scored: torch.Tensor | None,
        sequences: tuple[ScheduledSequence, ...],
    ) -> SampledTokens:
        """What a step has come to; `blocks` by slot, as they were in it."""
        tokens = () if samples is None else samples.tokens()
        for token in tokens:
            if token.error is not None:
                self._scrub(blocks[token.slot])
        return SampledTokens(step_id, tokens, () if scored is None else score(scored, sequences))

    @torch.inference_mode()
    def _scrub(self, blocks: tuple[int, ...]) -> None:
        """Zero what is not finite: a failed sequence's numbers must not reach the next owner of its blocks."""
        for block in blocks:
            self._kv_LN2KSD[:, block].nan_to_num_(0.0, 0.0, 0.0)
