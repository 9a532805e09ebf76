"""One step's work, as the pure side hands it to a runner.

Immutable, torch-free, matched to its results by `step_id`. A running sequence owns a *slot*: its row in the
runner's static tables (block table, sampling state, last sampled token). A runner never sees a Sequence.

    rows of the batch     | seq A (slot 3)        | seq B (slot 0) | seq C (slot 7) |
                          | 5 prefill tokens      | 1 decode token | 1 decode token |
    row index               0   1   2   3   4       5                6

Sequences that share pages are adjacent, so that every shared page run covers a contiguous range of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from engine.types import SamplingParams, TokenLogprobs

Int32Array = npt.NDArray[np.int32]

CHUNK = 256
"""Keys per attention chunk, aligned to absolute positions. Part of the batch-invariance contract."""

TILE_FIELDS = ("row_begin", "row_end", "page_begin", "page_end", "first_key", "part")


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Which rows read which pages: the one seam between scheduling and attention kernels.

    tiles:  int32 [num_tiles, 6], columns TILE_FIELDS, ascending in first_key. Rows [row_begin, row_end) attend
            to keys at absolute positions first_key .. first_key + (page_end - page_begin) * block_size, held in
            pages[page_begin:page_end]. A row attends only to keys at positions <= its own (causal), so the last
            tile of a row is masked by position; a tile never starts beyond the last row's position.
            The partial result of row r goes to partial slot part + (r - row_begin).
    pages:  int32 [num_pages], physical block ids.
    merge_offsets, merge_parts: CSR; row r merges partial slots merge_parts[merge_offsets[r]:merge_offsets[r+1]],
            in that order, which is ascending in first_key.
    """

    tiles: Int32Array
    pages: Int32Array
    merge_offsets: Int32Array
    merge_parts: Int32Array
    shared_keys: int  # sum over tiles of keys x (sequences - 1): key reads that sharing saves per layer


@dataclass(frozen=True, slots=True)
class SlotInstall:
    """A sequence takes a slot. `prompt_ids` and `output_ids` (what it generated in an earlier life, or before a
    preemption) initialise penalty counts."""

    slot: int
    sampling: SamplingParams
    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """`length` tokens of one sequence, at absolute positions start .. start + length.

    token_ids None: one decode token, the slot's last sample, which is already on the device.
    sample: the last row's logits are sampled into the slot.
    targets: where log-probabilities of the prompt are asked for, the token that follows each row, as far as it is
    one of the prompt; the `top` likeliest of each row are wanted too.
    """

    slot: int
    start: int
    length: int
    token_ids: tuple[int, ...] | None
    sample: bool
    targets: tuple[int, ...] = ()
    top: int = 0


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """`block_tables` maps a slot to all its physical blocks, logical order; only slots whose table changed
    since the last step are in it. `num_generated` of a sampled row is derived by the runner from the slot.

    copies: (source block, target block, tokens), made before the step, one after the other, and whatever becomes of
    the step: a move of cached blocks is not known to its sequences."""

    step_id: int
    sequences: tuple[ScheduledSequence, ...]
    plan: AttentionPlan
    installs: tuple[SlotInstall, ...] = ()
    block_tables: dict[int, tuple[int, ...]] | None = None
    copies: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The sample of one slot; `error` set: this sequence failed alone, the others are good."""

    slot: int
    token_id: int
    logprobs: TokenLogprobs | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Of the rows of one slot that have targets, in order."""

    slot: int
    logprobs: tuple[TokenLogprobs, ...]


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """One entry per ScheduledSequence with sample=True, one per ScheduledSequence with targets; in batch order."""

    step_id: int
    tokens: tuple[SampledToken, ...]
    scores: tuple[PromptScores, ...] = ()


class Runner(Protocol):
    """Executes steps. Owns weights, KV tensors and slot tables; knows nothing of requests or time.

    After an exception the next step is good, but for DeviceLost. MemoryError: it could not allocate."""

    block_size: int
    num_blocks: int  # including scratch block 0
    max_model_len: int
    vocab_size: int

    def run(self, batch: ScheduledBatch) -> SampledTokens: ...


class Launched(Protocol):
    """A step whose kernels are queued."""

    def result(self) -> SampledTokens:
        """Wait for it. Raises DeviceLost."""
        ...


@runtime_checkable
class OverlappingRunner(Runner, Protocol):
    """A runner that may be given a step before the results of the one before it are known."""

    def launch(self, batch: ScheduledBatch) -> Launched: ...


class DeviceLost(RuntimeError):
    """The device cannot compute any more, for no sequence: the engine has to be started again."""
