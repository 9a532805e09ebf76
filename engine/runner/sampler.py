"""Turns logits into tokens, by slot.

Owns the sampling state of each slot: parameters, number of generated tokens, token counts for penalties, the
random numbers of the next positions. Invariants: a token is a function of (logits, parameters, history, seed,
position), so neither the batch nor a preemption changes it; what goes wrong for one row is that row's error
and nobody else's.

A batch of plain greedy rows takes one argmax. Otherwise rows go one by one (`ops.sampling` says why). EOS
needs nothing here: it is an ordinary token, whose consequence the scheduler decides; only `min_tokens`
forbids EOS and stop ids for a while (EOS not, where `ignore_eos` makes it ordinary). What an output may consist
of (a grammar, allowed ids, bad words) is a mask over its own row; log-probabilities are of the unmasked one.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from engine.batch import SampledToken, ScheduledSequence, SlotInstall
from engine.structured.grammar import Grammars, Pending
from engine.types import SamplingParams, TokenLogprobs, TopLogprob
from ops.sampling import Float32Array, draw, greedy, log_softmax, philox_uniforms

logger = logging.getLogger(__name__)

_UNIFORMS_AT_ONCE = 64


class _TokenCounts:
    """The distinct tokens of a sequence and how often each was generated, as growing arrays."""

    __slots__ = ("_counts", "_ids", "_place")

    def __init__(self, prompt_ids: Sequence[int], output_ids: Sequence[int], vocab_size: int) -> None:
        self._place: dict[int, int] = {}
        self._ids = np.zeros(256, np.int64)
        self._counts = np.zeros(256, np.float32)
        for token in prompt_ids:
            if 0 <= token < vocab_size:
                self._at(token)
        for token in output_ids:
            self.add(token)

    def add(self, token: int) -> None:
        self._counts[self._at(token)] += 1

    def penalise(self, logits_V: Float32Array, params: SamplingParams) -> None:
        """Apply the three penalties in place."""
        size = len(self._place)
        ids, counts = self._ids[:size], self._counts[:size]
        values = logits_V[ids]
        if params.repetition_penalty != 1.0:
            penalty = np.float32(params.repetition_penalty)
            values = np.where(values > 0, values / penalty, values * penalty)
        values = values - np.float32(params.frequency_penalty) * counts
        logits_V[ids] = values - np.float32(params.presence_penalty) * (counts > 0)

    def _at(self, token: int) -> int:
        place = self._place.setdefault(token, len(self._place))
        if place == len(self._ids):
            self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
            self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
        self._ids[place] = token
        return place


class _BadWords:
    """Sequences of tokens that must not come out. Owns as many of the last outputs as the longest has."""

    __slots__ = ("_last", "_words")

    def __init__(self, words: Sequence[tuple[int, ...]], output_ids: Sequence[int]) -> None:
        self._words = [word for word in words if word]
        longest = max(map(len, self._words), default=1)
        self._last: deque[int] = deque(output_ids, maxlen=longest)

    def add(self, token: int) -> None:
        self._last.append(token)

    def forbid(self, logits_V: Float32Array) -> None:
        """Mask, in place, every token that would complete one."""
        last = tuple(self._last)
        for word in self._words:
            *before, final = word
            if final < len(logits_V) and (not before or last[-len(before) :] == tuple(before)):
                logits_V[final] = -np.inf


@dataclass(slots=True)
class _SlotState:
    """One slot's sampling. plain: argmax of the logits as they are. forbidden: ids that min_tokens keeps
    away.
    """

    params: SamplingParams
    plain: bool
    num_generated: int
    counts: _TokenCounts | None
    bias_ids: npt.NDArray[np.int64]
    bias: Float32Array
    forbidden: npt.NDArray[np.int64]
    error: str | None
    grammar: Pending | None
    bad_words: _BadWords | None
    disallowed: npt.NDArray[np.bool_] | None  # [vocab]; None: all are allowed
    uniforms: list[float] = field(default_factory=list)
    uniforms_from: int = 0

    def uniform(self, position: int) -> float:
        """The random number of a position; computed for a run of positions at once."""
        if not self.uniforms_from <= position < self.uniforms_from + len(self.uniforms):
            positions = torch.arange(position, position + _UNIFORMS_AT_ONCE)
            self.uniforms = philox_uniforms(self.params.seed, positions).tolist()
            self.uniforms_from = position
        return self.uniforms[position - self.uniforms_from]


class Sampler:
    """The sampling states of all slots."""

    def __init__(self, max_num_seqs: int, vocab_size: int, grammars: Grammars | None = None) -> None:
        self._vocab_size = vocab_size
        self._grammars = grammars
        self._slots: list[_SlotState | None] = [None] * max_num_seqs

    def install(self, install: SlotInstall) -> None:
        """A sequence takes a slot."""
        self._slots[install.slot] = _slot_state(install, self._vocab_size, self._grammars)

    def sample(
        self, logits_RV: torch.Tensor, sequences: Sequence[ScheduledSequence], invalid: frozenset[int]
    ) -> tuple[SampledToken, ...]:
        """One token for each sequence. logits: [len(sequences), vocab], any float dtype; not changed.

        invalid: slots whose input was bad; they get an error.
        """
        logits = logits_RV.float().numpy()
        likeliest: list[int] = greedy(logits).tolist()
        finite = np.isfinite(logits[np.arange(len(sequences)), likeliest])
        return tuple(
            self._sample_row(logits[row], item, likeliest[row], bool(finite[row]), item.slot in invalid)
            for row, item in enumerate(sequences)
        )

    def _sample_row(
        self, logits_V: Float32Array, item: ScheduledSequence, likeliest: int, finite: bool, invalid: bool
    ) -> SampledToken:
        state = self._slots[item.slot]
        try:
            if state is None:
                raise ValueError(f"slot {item.slot} was never installed")
            if invalid:
                raise ValueError("a token id is not in the vocabulary")
            if state.error is not None:
                raise ValueError(state.error)
            if not finite:
                raise ValueError("the model's logits are not finite")
            token = likeliest if state.plain else _choose(logits_V, state, item.start + item.length)
            if state.grammar is not None:
                state.grammar.get().advance((token,))
            logprobs = (
                None if state.params.logprobs is None else _logprobs(logits_V, token, state.params.logprobs)
            )
        except Exception as error:  # whatever it is, the other rows are good
            logger.warning("sampling failed for slot %d: %s", item.slot, error)
            return SampledToken(item.slot, 0, error=str(error))
        state.num_generated += 1
        if state.counts is not None:
            state.counts.add(token)
        if state.bad_words is not None:
            state.bad_words.add(token)
        return SampledToken(item.slot, token, logprobs)


def _slot_state(install: SlotInstall, vocab_size: int, grammars: Grammars | None) -> _SlotState:
    params = install.sampling
    constrained = params.grammar is not None or params.allowed_token_ids is not None or params.bad_words
    penalties = bool(params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0)
    wrong = [token for token in params.logit_bias if not 0 <= token < vocab_size]
    forbidden = set(params.stop_token_ids) | (set() if params.ignore_eos else set(params.eos_token_ids))
    return _SlotState(
        params=params,
        plain=params.temperature == 0
        and not penalties
        and not params.logit_bias
        and not params.min_tokens
        and not constrained,
        num_generated=len(install.output_ids),
        counts=_TokenCounts(install.prompt_ids, install.output_ids, vocab_size) if penalties else None,
        bias_ids=np.fromiter(params.logit_bias.keys(), np.int64),
        bias=np.fromiter(params.logit_bias.values(), np.float32),
        forbidden=np.array(sorted(token for token in forbidden if 0 <= token < vocab_size), np.int64),
        error=_problem(params, wrong, grammars),
        grammar=None
        if params.grammar is None or grammars is None
        else grammars.matcher(params.grammar, params.eos_token_ids, install.output_ids),
        bad_words=_BadWords(params.bad_words, install.output_ids) if params.bad_words else None,
        disallowed=_all_but(params.allowed_token_ids, vocab_size),
    )


def _problem(params: SamplingParams, wrong: list[int], grammars: Grammars | None) -> str | None:
    """Why nothing can be sampled for a slot."""
    if wrong:
        return f"logit_bias names token {wrong[0]}, which is not in the vocabulary"
    if params.grammar is not None and grammars is None:
        return "this engine cannot follow grammars"
    return None


def _all_but(allowed: tuple[int, ...] | None, vocab_size: int) -> npt.NDArray[np.bool_] | None:
    if allowed is None:
        return None
    disallowed = np.ones(vocab_size, np.bool_)
    disallowed[[token for token in allowed if 0 <= token < vocab_size]] = False
    return disallowed


def _choose(logits_V: Float32Array, state: _SlotState, position: int) -> int:
    params = state.params
    logits_V = _adjusted(logits_V, state)
    if params.temperature == 0:
        return int(logits_V.argmax())
    return draw(
        logits_V, params.temperature, params.top_k, params.top_p, params.min_p, state.uniform(position)
    )


def _adjusted(logits_V: Float32Array, state: _SlotState) -> Float32Array:
    """With penalties, biases and masks, in a copy if there are any. Raises ValueError when all are masked."""
    params = state.params
    early = state.num_generated < params.min_tokens and len(state.forbidden) > 0
    masked = state.grammar is not None or state.bad_words is not None or state.disallowed is not None
    if not (state.counts is not None or len(state.bias_ids) or early or masked):
        return logits_V
    logits_V = logits_V.copy()
    if state.counts is not None:
        state.counts.penalise(logits_V, params)
    logits_V[state.bias_ids] += state.bias
    if early:
        logits_V[state.forbidden] = -np.inf
    if state.disallowed is not None:
        logits_V[state.disallowed] = -np.inf
    if state.bad_words is not None:
        state.bad_words.forbid(logits_V)
    if state.grammar is not None:
        logits_V[~state.grammar.get().allowed()] = -np.inf
    if not np.isfinite(logits_V.max()):
        raise ValueError("no token can be chosen: every one is forbidden")
    return logits_V


def _logprobs(logits_V: Float32Array, token: int, number: int) -> TokenLogprobs:
    values = log_softmax(logits_V)
    number = min(number, len(values))
    top: tuple[TopLogprob, ...] = ()
    if number:
        floor = np.partition(values, len(values) - number)[len(values) - number]
        candidates = np.flatnonzero(values >= floor)  # in the order of ids, so that ties are too
        best = candidates[np.argsort(-values[candidates], kind="stable")][:number]
        top = tuple(TopLogprob(int(index), float(values[index])) for index in best)
    return TokenLogprobs(float(values[token]), top)
