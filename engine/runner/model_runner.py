"""The Runner that computes on a CPU: steps of a model over a paged KV cache.

Owns slot tables, sampling state and the KV cache's copies; `run` is one step. Invariant (the contract): a
position's logits depend on its own sequence's ids alone, whatever else is in the batch, however the prompt
was cut into steps, whether a prefix came from the cache, and on any number of threads; `forward` is the door
at which that is tested. Left to others: what runs when (`engine.scheduler`), what a token means
(`engine.core`), what computes logits (`engine.runner.forward`).
"""

from __future__ import annotations

import numpy as np
import torch

from engine.batch import AttentionPlan, SampledToken, SampledTokens, ScheduledBatch
from engine.plan import Rows, build_plan
from engine.runner.batch import SlotTables, StepInputs
from engine.runner.forward import Forward
from engine.runner.kv_cache import KvCache
from engine.runner.memory_errors import named_memory_errors
from engine.runner.sampler import Sampler
from engine.runner.scoring import score
from engine.runner.threads import ThreadChoice
from engine.structured.grammar import Grammars


class ModelRunner:
    """Executes steps on the CPU. `forward` computes over `cache`."""

    def __init__(
        self,
        forward: Forward,
        cache: KvCache,
        threads: ThreadChoice,
        vocab_size: int,
        max_num_seqs: int,
        grammars: Grammars | None = None,
    ) -> None:
        sizes = cache.sizes
        self.block_size = sizes.block_size
        self.num_blocks = sizes.num_blocks
        self.max_model_len = sizes.max_model_len
        self.vocab_size = vocab_size
        self.kv_cache_bytes = sizes.total_bytes
        self._forward, self._cache, self._threads = forward, cache, threads
        self._tables = SlotTables(max_num_seqs, -(-sizes.max_model_len // sizes.block_size) + 1)
        self._sampler = Sampler(max_num_seqs, vocab_size, grammars)

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
        them those of the rows with targets. They hold until the next step."""
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
        padded = torch.zeros(self._forward.padded(rows), dtype=torch.int64)
        logit_rows = padded[: self._forward.padded(1)]
        inputs = StepInputs(positions, padded, padded, padded, logit_rows, (), frozenset())
        self._forward.compute(inputs, build_plan(items, self.block_size, share=False))

    def use_threads(self, threads: int) -> None:
        """For `probe`; a step chooses for itself."""
        self._forward.use_threads(threads)

    def choose_threads(self, threads: ThreadChoice) -> None:
        """Use this choice from the next step on."""
        self._threads = threads

    def _begin(self, batch: ScheduledBatch) -> StepInputs:
        for source, target, tokens in batch.copies:
            self._cache.copy(source, target, tokens)
        for install in batch.installs:
            self._sampler.install(install)
        self._tables.apply(batch)
        return self._tables.inputs(batch, self.block_size, self._forward.padded, self.vocab_size)

    def _compute(self, inputs: StepInputs, plan: AttentionPlan) -> torch.Tensor:
        self._forward.use_threads(self._threads.of(len(inputs.positions)))
        rows = len(inputs.sampled) + sum([len(item.targets) for item in inputs.scored])
        return self._forward.compute(inputs, plan)[:rows]

    def _end_row(self, token: SampledToken) -> None:
        if token.error is None:
            self._tables.record(token.slot, token.token_id)
        else:
            self._cache.scrub(self._tables.blocks(token.slot))
