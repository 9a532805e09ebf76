"""The Runner that computes: a decoder in torch over a paged KV cache.

Owns weights, KV tensors, slot tables and sampling state; `run` is one step. Invariant (the contract): a
position's logits depend on its own sequence's ids alone, whatever else is in the batch, however the prompt
was cut into steps, whether a prefix came from the cache, and on any number of threads; `forward` is the door
at which that is tested. Left to others: what runs when (`engine.scheduler`), what a token means
(`engine.core`).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from engine.batch import AttentionPlan, SampledToken, SampledTokens, ScheduledBatch
from engine.config import EngineConfig, step_limits
from engine.models.attention import LastRows, RowTile, StepState
from engine.models.config import ModelConfig, load_config
from engine.models.decoder import Decoder
from engine.models.layers import RotaryTable, Weights
from engine.models.loader import DummyWeights, FolderWeights
from engine.plan import Rows, build_plan
from engine.runner.batch import SlotTables, StepInputs, slot_runs
from engine.runner.kv_cache import KvCache, free_memory, size_kv_cache
from engine.runner.loaded import LoadedRunner, LoadError, Progress
from engine.runner.memory_errors import named_memory_errors
from engine.runner.sampler import Sampler
from engine.runner.scoring import score
from engine.runner.threads import ThreadChoice, fixed_threads, time_threads
from engine.structured.grammar import Grammars
from engine.structured.tokenizer_json import converted_tokenizer, tokenizer_json
from engine.types import Ready
from ops.attention import Geometry, Plan, PreparedSteps, choose_query_quantum, plan_of_rows, prepare
from ops.dispatch import cpu_ops
from ops.linear import RowPolicy, choose_row_policy
from ops.rope import RopeStep

logger = logging.getLogger(__name__)

_LEFT_OUT = 48
"""Rows that the last layer has to leave out, for a plan of the rest to pay."""

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class ModelRunner:
    """Executes steps on the CPU."""

    def __init__(
        self,
        decoder: Decoder,
        cache: KvCache,
        geometry: Geometry,
        policy: RowPolicy,
        threads: ThreadChoice,
        max_num_seqs: int,
        max_rows: int,
        grammars: Grammars | None = None,
    ) -> None:
        config, sizes = decoder.config, cache.sizes
        self.block_size = sizes.block_size
        self.num_blocks = sizes.num_blocks
        self.max_model_len = sizes.max_model_len
        self.vocab_size = config.vocab_size
        self.kv_cache_bytes = sizes.total_bytes
        self._decoder, self._cache, self._geometry, self._policy = decoder, cache, geometry, policy
        self._threads = threads
        self._rotary = RotaryTable(config.rope, config.head_dim, sizes.max_model_len)
        self._tables = SlotTables(max_num_seqs, -(-sizes.max_model_len // sizes.block_size) + 1)
        self._sampler = Sampler(max_num_seqs, config.vocab_size, grammars)
        self._windows = frozenset(config.windows)
        self._max_rows = policy.padded(max_rows)
        self._queries = geometry.query_buffer(self._max_rows)
        self._last_queries = geometry.query_buffer(policy.tile)
        self._prepared = PreparedSteps(geometry)

    @named_memory_errors()
    def run(self, batch: ScheduledBatch) -> SampledTokens:
        """One step: compute every row, sample where asked. See `engine.batch` for the contract of both
        sides.
        """
        inputs = self._begin(batch)
        logits = self._compute(inputs, batch.plan)
        count = len(inputs.sampled)
        tokens = self._sampler.sample(logits[:count], inputs.sampled, inputs.invalid) if count else ()
        scores = score(logits[count:], inputs.scored) if inputs.scored else ()
        for token in tokens:
            self._end_row(token)
        return SampledTokens(batch.step_id, tokens, scores)

    def forward(self, batch: ScheduledBatch) -> torch.Tensor:
        """A step without sampling: the logits [sampled sequences, vocab] that `run` would sample from, and behind
        them those of the rows with targets."""
        return self._compute(self._begin(batch), batch.plan)

    def probe(self, rows: int) -> None:
        """A step of that many rows on scratch memory, for timing: decode rows, or one prefill from 64 rows
        on.
        """
        if rows < 64:
            items = [Rows(self.block_size - 1, 1, [0])] * rows
        else:
            items = [Rows(0, rows, [0] * -(-rows // self.block_size))]
        positions = np.concatenate([np.arange(item.start, item.start + item.length) for item in items])
        padded = torch.zeros(self._policy.padded(rows), dtype=torch.int64)
        inputs = StepInputs(
            positions, padded, padded, padded, padded[: self._policy.sizes[0]], (), frozenset()
        )
        self._forward(inputs, build_plan(items, self.block_size, share=False))

    def choose_threads(self, threads: ThreadChoice) -> None:
        """Use this choice from the next step on."""
        self._threads = threads

    def _begin(self, batch: ScheduledBatch) -> StepInputs:
        for source, target, tokens in batch.copies:
            self._cache.copy(source, target, tokens)
        for install in batch.installs:
            self._sampler.install(install)
        self._tables.apply(batch)
        return self._tables.inputs(batch, self.block_size, self._policy, self.vocab_size)

    def _compute(self, inputs: StepInputs, plan: AttentionPlan) -> torch.Tensor:
        self._threads.use_for(len(inputs.positions))
        rows = len(inputs.sampled) + sum([len(item.targets) for item in inputs.scored])
        return self._forward(inputs, plan)[:rows]

    @torch.inference_mode()
    def _forward(self, inputs: StepInputs, plan: AttentionPlan) -> torch.Tensor:
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
        if len(rows) > min(self._policy.tile, len(inputs.ids) - _LEFT_OUT):
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

    def _end_row(self, token: SampledToken) -> None:
        if token.error is None:
            self._tables.record(token.slot, token.token_id)
        else:
            self._cache.scrub(self._tables.blocks(token.slot))


def load_runner(config: EngineConfig, progress: Progress) -> LoadedRunner:
    """Load the model of `config` and size everything. Raises LoadError with a line for the user.

    Pins the process to `config.cpu_cores` first, before torch starts threads.
    """
    try:
        return _load(config, progress)
    except (ValueError, OSError) as error:
        raise LoadError(str(error)) from error


def _load(config: EngineConfig, progress: Progress) -> LoadedRunner:
    most = _use_cores(config)
    folder = Path(config.model)
    model = load_config(folder)
    dtype = _dtype(config)
    threads = fixed_threads(most)
    threads.use(most)
    progress("loading weights", 0.0)
    decoder = _load_decoder(
        config, folder, model, dtype, lambda fraction: progress("loading weights", fraction)
    )
    progress("checking the CPU's arithmetic", 0.0)
    converted = converted_tokenizer(folder)
    grammars = Grammars(tokenizer_json(folder, converted), model.vocab_size)
    runner = _assemble(config, decoder, dtype, threads, grammars)
    progress("timing a step", 0.0)
    if config.num_threads is None:
        runner.choose_threads(time_threads(most, runner.probe, threads))
    else:
        runner.probe(1)  # the first step pays for oneDNN's and MKL's own start
    return LoadedRunner(runner, _ready(config, runner, dtype, most, converted))


def _assemble(
    config: EngineConfig,
    decoder: Decoder,
    dtype: torch.dtype,
    threads: ThreadChoice,
    grammars: Grammars,
) -> ModelRunner:
    model = decoder.config
    with torch.inference_mode():
        policy = choose_row_policy(*decoder.linears(), dtype, threads.use, threads.most, decoder.head)
        quantum = choose_query_quantum(model.num_kv_heads, model.head_dim, dtype, threads.use, threads.most)
    sizes = size_kv_cache(config, model, dtype, free_memory())
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
    cache = KvCache(sizes, model, dtype)
    limits = step_limits(config, gpu=False)
    rows = limits.max_num_batched_tokens + limits.max_num_seqs
    return ModelRunner(decoder, cache, geometry, policy, threads, limits.max_num_seqs, rows, grammars)


def _load_decoder(
    config: EngineConfig,
    folder: Path,
    model: ModelConfig,
    dtype: torch.dtype,
    progress: Callable[[float], None],
) -> Decoder:
    weights: Weights
    if config.load_format == "dummy":
        weights = DummyWeights(config.seed, dtype)
    else:
        weights = FolderWeights(folder, dtype, progress)
    return Decoder(model, weights, cpu_ops(dtype))


def _use_cores(config: EngineConfig) -> int:
    """Pin the process where that is asked for; the most threads it may use."""
    if config.cpu_cores is not None:
        os.sched_setaffinity(0, config.cpu_cores)
    return config.num_threads or len(os.sched_getaffinity(0))


def _dtype(config: EngineConfig) -> torch.dtype:
    if config.dtype != "auto":
        return _DTYPES[config.dtype]
    words = set(Path("/proc/cpuinfo").read_text().split())
    fast = words & {"avx512_bf16", "amx_bf16"}
    logger.info(
        "dtype: %s (%s)", "bfloat16" if fast else "float32", ", ".join(sorted(fast)) or "no fast bf16 here"
    )
    return torch.bfloat16 if fast else torch.float32


def _ready(
    config: EngineConfig, runner: ModelRunner, dtype: torch.dtype, threads: int, converted: bytes | None
) -> Ready:
    limits = step_limits(config, gpu=False)
    return Ready(
        block_size=runner.block_size,
        num_blocks=runner.num_blocks - 1,
        max_model_len=runner.max_model_len,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        vocab_size=runner.vocab_size,
        device="cpu",
        dtype=str(dtype).removeprefix("torch."),
        kv_cache_bytes=runner.kv_cache_bytes,
        num_threads=threads,
        tokenizer=converted,
    )
