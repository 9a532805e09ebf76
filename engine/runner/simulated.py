"""A runner without a model: deterministic tokens and a latency model. Torch-free.

Responsible for: everything above the runner seeing the real thing (slots, block tables, copies, paged state).
Its "KV" of a position is one 64-bit state that mixes the state before it, read through the block table, with
the position's token:

    state[p] = mix(state[p - 1], token[p])          token[p + 1] = pick(mix(state[p], seed, p))

so that a token is a function of (seed, position, all ids before it), and a wrong block gives wrong tokens.
Never the source of a performance claim. Leaves to others: penalties and probabilities (logprobs are made up).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from engine.batch import (
    PromptScores,
    SampledToken,
    SampledTokens,
    ScheduledBatch,
    ScheduledSequence,
    SlotInstall,
)
from engine.config import EngineConfig, SimConfig, step_limits
from engine.runner.loaded import LoadedRunner, LoadError
from engine.structured.grammar import GrammarError, Grammars, Pending
from engine.structured.tokenizer_json import tokenizer_json
from engine.types import Ready, SamplingParams, TokenLogprobs, TopLogprob

BYTES_PER_TOKEN = 1024
"""As if: what turns --kv-cache-memory into blocks."""

DEFAULT_MEMORY = 2**30
DEFAULT_MODEL_LEN = 32768

_MASK = (1 << 64) - 1


@dataclass(slots=True)
class _Slot:
    """A row of the static tables."""

    sampling: SamplingParams
    num_generated: int
    blocks: tuple[int, ...] = ()
    last_token: int = 0
    forbidden: frozenset[int] = field(default_factory=frozenset)
    grammar: Pending | None = None


class SimulatedRunner:
    """Owns the states of all positions and the slots."""

    def __init__(
        self,
        *,
        num_blocks: int,
        block_size: int,
        max_model_len: int,
        sim: SimConfig,
        grammars: Grammars | None = None,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.max_model_len = max_model_len
        self.vocab_size = sim.vocab_size
        self._sim = sim
        self._grammars = grammars
        self._states: npt.NDArray[np.uint64] = np.zeros((num_blocks, block_size), np.uint64)
        self._states.fill(0)  # touched at start, so that resident memory is flat
        self._slots: dict[int, _Slot] = {}
        # Of a real vocabulary, leave out what is rarely text: special tokens and single bytes at the
        # beginning.
        self._first_token = 320 if sim.vocab_size >= 1024 else 0

    def run(self, batch: ScheduledBatch) -> SampledTokens:
        """Takes as long as the latency model says."""
        begun = time.perf_counter()
        for install in batch.installs:
            self._slots[install.slot] = _Slot(
                install.sampling,
                len(install.output_ids),
                forbidden=frozenset(install.sampling.eos_token_ids),
                grammar=self._grammar(install),
            )
        for slot, blocks in (batch.block_tables or {}).items():
            self._slots[slot].blocks = blocks
        for source, target, tokens in batch.copies:
            self._states[target, :tokens] = self._states[source, :tokens]
        sampled = [self._sample(rows, self._advance(rows)) for rows in batch.sequences if rows.sample]
        for rows in batch.sequences:
            if not rows.sample:
                self._advance(rows)
        scores = tuple([self._score(rows) for rows in batch.sequences if rows.targets])
        remaining = begun + self._seconds(batch) - time.perf_counter()
        if remaining > 0:
            time.sleep(remaining)
        return SampledTokens(batch.step_id, tuple(sampled), scores)

    def _advance(self, rows: ScheduledSequence) -> int:
        """Compute the rows' states; the last one."""
        slot, size, states = self._slots[rows.slot], self.block_size, self._states
        blocks, before = slot.blocks, rows.start - 1
        state = int(states[blocks[before // size], before % size]) if before >= 0 else 0
        if rows.token_ids is None:
            state = _mix(state, slot.last_token)
            states[blocks[rows.start // size], rows.start % size] = state
            return state
        if self._sim.crash_token in rows.token_ids:
            os.kill(os.getpid(), signal.SIGKILL)
        for position, token in enumerate(rows.token_ids, rows.start):
            state = _mix(state, token)
            states[blocks[position // size], position % size] = state
        return state

    def _sample(self, rows: ScheduledSequence, state: int) -> SampledToken:
        slot = self._slots[rows.slot]
        sampling = slot.sampling
        seed = sampling.seed if sampling.temperature > 0 else 0
        forbidden = slot.forbidden
        if slot.num_generated < sampling.min_tokens:
            forbidden = forbidden | set(sampling.stop_token_ids)
        state = _mix(_mix(state, seed), rows.start + rows.length)
        try:
            token = self._pick(state, forbidden) if slot.grammar is None else _pick_from(slot.grammar, state)
        except GrammarError as error:
            return SampledToken(rows.slot, 0, error=str(error))
        slot.last_token = token
        slot.num_generated += 1
        return SampledToken(rows.slot, token, _logprobs(token, sampling.logprobs, self.vocab_size))

    def _score(self, rows: ScheduledSequence) -> PromptScores:
        made_up = [_logprobs(target, rows.top, self.vocab_size) for target in rows.targets]
        return PromptScores(
            rows.slot, tuple([msgspec.structs.replace(each, rank=1) for each in made_up if each is not None])
        )

    def _grammar(self, install: SlotInstall) -> Pending | None:
        sampling = install.sampling
        if sampling.grammar is None or self._grammars is None:
            return None
        return self._grammars.matcher(sampling.grammar, sampling.eos_token_ids, install.output_ids)

    def _pick(self, state: int, forbidden: frozenset[int]) -> int:
        choices = self.vocab_size - self._first_token
        for step in range(choices):
            token = self._first_token + (state + step) % choices
            if token not in forbidden:
                return token
        return self._first_token

    def _seconds(self, batch: ScheduledBatch) -> float:
        sim = self._sim
        prefill = sum(len(rows.token_ids) for rows in batch.sequences if rows.token_ids is not None)
        keys = 0
        if sim.per_kv_token_ms:
            keys = sum(rows.start + rows.length for rows in batch.sequences) - batch.plan.shared_keys
        return 1e-3 * (
            sim.base_ms
            + sim.per_sequence_ms * len(batch.sequences)
            + sim.per_kv_token_ms * keys
            + sim.per_prefill_token_ms * prefill
        )


def _pick_from(grammar: Pending, state: int) -> int:
    matcher = grammar.get()
    allowed = np.flatnonzero(matcher.allowed())
    if not len(allowed):
        raise GrammarError("no token can be chosen: the grammar forbids every one")
    token = int(allowed[state % len(allowed)])
    matcher.advance((token,))
    return token


def load_runner(config: EngineConfig, progress: Callable[[str, float], None]) -> LoadedRunner:
    """Raises LoadError with the flag to change."""
    progress("simulated engine", 0.0)
    memory = config.kv_cache_memory or DEFAULT_MEMORY
    num_blocks = memory // (BYTES_PER_TOKEN * config.block_size)
    if num_blocks < 1:
        raise LoadError(
            f"--kv-cache-memory {memory} holds no block of {config.block_size} tokens "
            f"({BYTES_PER_TOKEN * config.block_size} bytes)"
        )
    tokens = num_blocks * config.block_size
    if config.max_model_len is not None and config.max_model_len > tokens:
        raise LoadError(
            f"--max-model-len {config.max_model_len} needs {config.max_model_len * BYTES_PER_TOKEN} bytes of "
            f"KV cache, --kv-cache-memory is {memory}"
        )
    max_model_len = config.max_model_len or min(DEFAULT_MODEL_LEN, tokens)
    runner = SimulatedRunner(
        num_blocks=num_blocks + 1,
        block_size=config.block_size,
        max_model_len=max_model_len,
        sim=config.sim,
        grammars=Grammars(tokenizer_json(Path(config.model), None), config.sim.vocab_size),
    )
    progress("simulated engine", 1.0)
    limits = step_limits(config, gpu=False)
    ready = Ready(
        block_size=config.block_size,
        num_blocks=num_blocks,
        max_model_len=max_model_len,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        vocab_size=config.sim.vocab_size,
        device="sim",
        dtype="none",
        kv_cache_bytes=num_blocks * config.block_size * BYTES_PER_TOKEN,
    )
    return LoadedRunner(runner, ready)


def _mix(state: int, value: int) -> int:
    """One round of splitmix64's finaliser (Steele, Lea, Flood 2014)."""
    mixed = (state + value + 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


def _logprobs(token: int, count: int | None, vocab_size: int) -> TokenLogprobs | None:
    """A plausible shape: the chosen token first, its neighbours behind it."""
    if count is None:
        return None
    top = tuple(TopLogprob((token + i) % vocab_size, -0.5 - i) for i in range(min(count, vocab_size)))
    return TokenLogprobs(-0.5, top)
