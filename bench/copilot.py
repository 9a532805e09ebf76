"""Requests with a long common prompt in an engine in this process: prefill, memory, time per token, attention.

    none     nothing is shared
    paged    blocks are shared, attention reads them once for each sequence
    ours     blocks are shared, and read once for all

Responsible for: one batch from its arrival to its end, with these figures apart. All three are given the same
requests, and have to end in the same tokens.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.workloads.roofline_parts import watched
from engine.core import EngineCore
from engine.runner.loaded import LoadedRunner
from engine.runner.model_runner import ModelRunner
from engine.types import Generate, SamplingParams

PATHS = {
    "none": frozenset({"prefix-cache", "in-flight-dedup", "shared-prefix-attention"}),
    "paged": frozenset({"shared-prefix-attention"}),
    "ours": frozenset[str](),
}
"""Name to what the engine has off."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens: of the common prompt, of each request's own, and of each output."""

    size: int
    prefix: int
    suffix: int
    output: int


@dataclass(slots=True)
class Measured:
    """`prefill_ms`: of all steps until everybody decodes; `token_ms`: the median step after that, and of it
    `attention_ms`; `kv_tokens`: in blocks that are taken, at the most."""

    prefill_ms: float = 0.0
    token_ms: float = 0.0
    attention_ms: float = 0.0
    kv_tokens: int = 0
    total_ms: float = 0.0
    token_ids: dict[int, list[int]] = field(default_factory=dict)


def measure(loaded: LoadedRunner, path: str, batch: Batch, seed: int) -> Measured:
    assert isinstance(loaded.runner, ModelRunner)
    core = EngineCore(loaded.runner, loaded.ready, PATHS[path])
    free = core.scheduler.tables.pool.num_available
    for request in requests(batch, seed, loaded.ready.vocab_size):
        core.take(request)
    found = Measured(token_ids={id: [] for id in range(1, batch.size + 1)})
    steps: list[float] = []
    attention: list[float] = []
    with watched(core, loaded.runner) as parts:
        while core.has_work:
            parts.clear()
            report = core.step()
            decoding = report.num_running == batch.size == report.num_tokens
            if decoding:
                steps.append(report.step_ms)
                attention.append(parts.seconds["attention"] * 1e3)
            elif not steps:
                found.prefill_ms += report.step_ms
            found.total_ms += report.step_ms
            found.kv_tokens = max(found.kv_tokens, (free - report.free_blocks) * loaded.ready.block_size)
            for delta in report.deltas:
                found.token_ids[delta.id] += delta.token_ids
    assert steps, "an output is too short for everybody to decode together"
    found.token_ms, found.attention_ms = statistics.median(steps), statistics.median(attention)
    return found


def requests(batch: Batch, seed: int, vocab: int) -> Iterator[Generate]:
    rng = random.Random(f"{batch} {seed}")
    prefix = tuple(rng.randrange(300, vocab) for _ in range(batch.prefix))
    sampling = SamplingParams(batch.output, 0, temperature=0.0, ignore_eos=True)
    for id in range(1, batch.size + 1):
        own = tuple(rng.randrange(300, vocab) for _ in range(batch.suffix))
        yield Generate(id, prefix + own, sampling)
