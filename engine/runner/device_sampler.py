"""Turns logits into tokens on the device, by slot, without waiting for them.

Owns the sampling state of each slot: on the device parameters, token history and last samples; on the host what
constrains an output (grammar, bad words, bias, allowed ids, min_tokens). The rules are `engine.runner.sampler`'s,
in the same order, with the same random numbers: a token is a function of (logits, parameters, history, seed,
position).

Invariant: `sample` launches, `Samples.tokens` waits. What an output may continue with depends on the tokens before
it only where it has a grammar or bad words: those have to be on the host first (`waits`). A row that fails has a
token of no meaning and an error; the others are good.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.batch import SampledToken, ScheduledSequence, SlotInstall
from engine.runner.constraints import SlotConstraints, Words, constraints_of
from engine.runner.device_memory import Download, upload
from engine.structured.grammar import Grammars
from engine.types import SamplingParams, TokenLogprobs, TopLogprob
from ops import cuda_sampling
from ops.cuda_logprobs import logprobs
from ops.cuda_sampling import PenaltyTable, SamplingTable

logger = logging.getLogger(__name__)


class DeviceSampler:
    """The sampling states of all slots. `last_tokens`: int64 [slots], what decode rows compute."""

    def __init__(
        self, max_num_seqs: int, vocab_size: int, device: torch.device, grammars: Grammars | None
    ) -> None:
        self._vocab_size = vocab_size
        self._num_words = -(-vocab_size // 32)
        self._device = device
        self._grammars = grammars
        self._slots: list[SlotConstraints | None] = [None] * max_num_seqs
        self.last_tokens = torch.zeros(max_num_seqs, dtype=torch.int64, device=device)
        self._floats_FS = torch.zeros(6, max_num_seqs, device=device)
        self._top_k_S = torch.zeros(max_num_seqs, dtype=torch.int32, device=device)
        self._seeds_S = torch.zeros(max_num_seqs, dtype=torch.int64, device=device)
        self._history_SV = torch.zeros(max_num_seqs, vocab_size, dtype=torch.int32, device=device)
        inverse, top_p, min_p, repetition, frequency, presence = self._floats_FS.unbind()
        self._table = SamplingTable(inverse, self._top_k_S, top_p, min_p, self._seeds_S)
        self._penalties = PenaltyTable(self._history_SV, repetition, frequency, presence)

    def install(self, installs: Sequence[SlotInstall]) -> None:
        """Sequences take slots."""
        if not installs:
            return
        for install in installs:
            state = constraints_of(install, self._vocab_size, self._grammars)
            self._slots[install.slot] = state
            if state.has_penalties:
                self._write_history(install)
        integers = np.array([_integers(install) for install in installs], np.int64).T
        floats = np.array([_floats(install.sampling) for install in installs], np.float32).T
        slots, seeds, top_k, last = upload(integers, self._device)
        self._floats_FS[:, slots] = upload(floats, self._device)
        self._seeds_S[slots] = seeds
        self._top_k_S[slots] = top_k.int()
        self.last_tokens[slots] = last

    def waits(self, sequences: Sequence[ScheduledSequence]) -> bool:
        """Whether the tokens that are being sampled for these sequences have to be known before their next."""
        return any(state is not None and state.by_history for state in self._states(sequences))

    def sample(
        self,
        logits_RV: torch.Tensor,
        sequences: Sequence[ScheduledSequence],
        slots_R: torch.Tensor,
        positions_R: torch.Tensor,
        invalid: frozenset[int],
    ) -> Samples:
        """One token for each sequence. logits: any float dtype, not changed, not read after this call's launches.

        slots, positions (int64): of the sequences, on the device. invalid: slots whose input was bad.
        """
        states = self._states(sequences)
        errors = [
            _problem(state, item.slot, item.slot in invalid)
            for state, item in zip(states, sequences, strict=True)
        ]
        tokens_R, finite_R = cuda_sampling.argmax(logits_RV)
        chosen_R = finite_R
        if any(state is not None and not state.plain for state in states):
            adjusted_RV = self._adjusted(logits_RV, states, slots_R, errors)
            scratch_RV = torch.empty(adjusted_RV.shape, dtype=torch.int32, device=self._device)
            tokens_R, chosen_R = cuda_sampling.sample(
                adjusted_RV, slots_R, positions_R, self._table, scratch_RV
            )
        self.last_tokens[slots_R] = tokens_R
        self._count(states, slots_R, tokens_R)
        found = Download(torch.stack((tokens_R, finite_R.long(), chosen_R.long())))
        return Samples(sequences, states, errors, found, self._logprobs(logits_RV, states, tokens_R))

    def _states(self, sequences: Sequence[ScheduledSequence]) -> list[SlotConstraints | None]:
        return [self._slots[item.slot] for item in sequences]

    def _adjusted(
        self,
        logits_RV: torch.Tensor,
        states: list[SlotConstraints | None],
        slots_R: torch.Tensor,
        errors: list[str | None],
    ) -> torch.Tensor:
        """With penalties, masks and biases: a copy in fp32. A row whose constraints fail gets an error."""
        adjusted_RV = logits_RV.to(torch.float32, copy=True)
        masks: dict[int, Words] = {}
        biases: list[dict[int, float]] = []
        for row, state in enumerate(states):
            biases.append({})
            if state is None or errors[row] is not None:
                continue
            try:
                mask = state.mask(self._num_words)
                biases[row] = state.bias()
            except Exception as error:  # whatever it is, the other rows are good
                errors[row] = str(error)
                continue
            if mask is not None:
                masks[row] = mask
        penalties = any(state is not None and state.has_penalties for state in states)
        cuda_sampling.adjust_logits(
            adjusted_RV, slots_R, self._penalties if penalties else None, self._bitmask(masks, len(states))
        )
        self._add_bias(adjusted_RV, biases)
        return adjusted_RV

    def _bitmask(self, masks: dict[int, Words], rows: int) -> torch.Tensor | None:
        if not masks:
            return None
        bitmask_RW = np.full((rows, self._num_words), -1, np.int32)
        for row, mask in masks.items():
            bitmask_RW[row] = mask
        return upload(bitmask_RW, self._device)

    def _add_bias(self, logits_RV: torch.Tensor, biases: list[dict[int, float]]) -> None:
        inside = [
            {token: value for token, value in bias.items() if 0 <= token < self._vocab_size}
            for bias in biases
        ]
        counts = [len(bias) for bias in inside]
        if not any(counts):
            return
        offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
        tokens = np.array([token for bias in inside for token in bias], np.int32)
        values = np.array([value for bias in inside for value in bias.values()], np.float32)
        device = self._device
        cuda_sampling.add_bias(
            logits_RV, upload(offsets, device), upload(tokens, device), upload(values, device)
        )

    def _count(
        self, states: list[SlotConstraints | None], slots_R: torch.Tensor, tokens_R: torch.Tensor
    ) -> None:
        rows = [row for row, state in enumerate(states) if state is not None and state.has_penalties]
        for state in states:
            if state is not None:
                state.num_launched += 1
        if rows:
            which = upload(np.array(rows, np.int64), self._device)
            self._history_SV[slots_R[which].long(), tokens_R[which]] += (
                2  # slots differ: nothing is added twice
            )

    def _write_history(self, install: SlotInstall) -> None:
        counts = np.zeros(self._vocab_size, np.int32)
        prompt = np.array(install.prompt_ids, np.int64)
        counts[prompt[(prompt >= 0) & (prompt < self._vocab_size)]] = 1
        np.add.at(counts, np.array(install.output_ids, np.int64), 2)
        self._history_SV[install.slot].copy_(upload(counts, self._device))

    def _logprobs(
        self, logits_RV: torch.Tensor, states: list[SlotConstraints | None], tokens_R: torch.Tensor
    ) -> RowLogprobs | None:
        """Of the unmasked distribution, where they are asked for."""
        wanted = {
            row: state.params.logprobs
            for row, state in enumerate(states)
            if state is not None and state.params.logprobs is not None
        }
        if not wanted:
            return None
        which = upload(np.array(list(wanted), np.int64), self._device)
        number = min(max(wanted.values()), self._vocab_size)
        chosen, ids, values = logprobs(logits_RV.index_select(0, which), tokens_R[which], number)
        return RowLogprobs(wanted, Download(chosen), Download(ids), Download(values))


@dataclass(frozen=True, slots=True)
class RowLogprobs:
    """How many of the likeliest each of some rows wants; chosen [n], ids and values [n, most of them]."""

    wanted: dict[int, int]
    chosen: Download
    ids: Download
    values: Download

    def by_row(self) -> dict[int, TokenLogprobs]:
        chosen, ids, values = self.chosen.get().tolist(), self.ids.get().tolist(), self.values.get().tolist()
        found = {}
        for place, (row, number) in enumerate(self.wanted.items()):
            top = zip(ids[place][:number], values[place][:number], strict=True)
            found[row] = TokenLogprobs(chosen[place], tuple([TopLogprob(*pair) for pair in top]))
        return found


@dataclass(frozen=True, slots=True)
class Samples:
    """A step's samples on their way to the host."""

    sequences: Sequence[ScheduledSequence]
    states: list[SlotConstraints | None]
    errors: list[str | None]
    found: Download
    logprobs: RowLogprobs | None

    def tokens(self) -> tuple[SampledToken, ...]:
        """To be asked for once, when the device has come so far; what depends on the tokens goes on from here."""
        logprobs = {} if self.logprobs is None else self.logprobs.by_row()
        rows = zip(self.sequences, self.states, self.errors, *self.found.get().tolist(), strict=True)
        return tuple(
            [
                _sampled(item.slot, state, error or _unchosen(finite, chosen), token, logprobs.get(row))
                for row, (item, state, error, token, finite, chosen) in enumerate(rows)
            ]
        )


def _sampled(
    slot: int, state: SlotConstraints | None, error: str | None, token: int, logprobs: TokenLogprobs | None
) -> SampledToken:
    if error is None and state is not None:
        try:
            state.accept(token)
        except Exception as problem:  # whatever it is, the other rows are good
            error = str(problem)
    if error is None:
        return SampledToken(slot, token, logprobs)
    logger.warning("sampling failed for slot %d: %s", slot, error)
    return SampledToken(slot, 0, error=error)


def _unchosen(finite: int, chosen: int) -> str | None:
    if not finite:
        return "the model's logits are not finite"
    return None if chosen else "no token can be chosen: every one is forbidden"


def _problem(state: SlotConstraints | None, slot: int, invalid: bool) -> str | None:
    if state is None:
        return f"slot {slot} was never installed"
    return "a token id is not in the vocabulary" if invalid else state.error


def _integers(install: SlotInstall) -> tuple[int, int, int, int]:
    """slot, seed as int64, top_k, last token"""
    seed = (install.sampling.seed + 2**63) % 2**64 - 2**63
    ids = install.output_ids or install.prompt_ids
    return install.slot, seed, install.sampling.top_k, ids[-1] if ids else 0


def _floats(params: SamplingParams) -> tuple[float, ...]:
    """As DeviceSampler's table has them; 1 / temperature is rounded as the CPU does it."""
    inverse = 1.0 / params.temperature if params.temperature else 0.0
    return (
        inverse,
        params.top_p,
        params.min_p,
        params.repetition_penalty,
        params.frequency_penalty,
        params.presence_penalty,
    )
