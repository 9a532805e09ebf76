"""What an output may consist of, as the host knows it while tokens are chosen on the device.

Responsible for: one slot's grammar, bad words, biases, allowed ids and min_tokens, as a bitmask and a list of
biases for its next token. The rules are `engine.runner.sampler`'s. Leaves to others: applying them (DeviceSampler),
everything that is a function of parameters and history alone (the device's tables).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engine.batch import SlotInstall
from engine.structured.grammar import Grammars, Pending
from engine.types import SamplingParams

Words = npt.NDArray[np.int32]

_NEVER = float("-inf")


@dataclass(slots=True)
class SlotConstraints:
    """One slot on the host. plain: argmax of the logits as they are. has_penalties: counts its tokens.

    by_history: what the next token may be depends on the tokens before it. num_launched: tokens that were generated
    or are being sampled. allowed: a bitmask; None: everything. output_ids: what is known of the output, kept where
    bad words need it.
    """

    params: SamplingParams
    plain: bool
    has_penalties: bool
    by_history: bool
    num_launched: int
    error: str | None
    grammar: Pending | None
    bad_words: tuple[tuple[int, ...], ...]
    early: tuple[int, ...]  # what min_tokens keeps away
    allowed: Words | None
    output_ids: list[int] = field(default_factory=list)

    def bias(self) -> dict[int, float]:
        """What is added to logits, by token; -inf forbids it."""
        bias = dict(self.params.logit_bias)
        if self.num_launched < self.params.min_tokens:
            bias.update(dict.fromkeys(self.early, _NEVER))
        for word in self.bad_words:
            *before, last = word
            if not before or self.output_ids[-len(before) :] == before:
                bias[last] = _NEVER
        return bias

    def mask(self, num_words: int) -> Words | None:
        """The bitmask of what may come next. Raises GrammarError."""
        if self.grammar is None:
            return self.allowed
        mask = pack_bits(self.grammar.get().allowed(), num_words)
        return mask if self.allowed is None else mask & self.allowed

    def accept(self, token: int) -> None:
        """The token that was sampled is known. Raises GrammarError."""
        if self.bad_words:
            self.output_ids.append(token)
        if self.grammar is not None:
            self.grammar.get().advance((token,))


def constraints_of(install: SlotInstall, vocab_size: int, grammars: Grammars | None) -> SlotConstraints:
    """The host's state of a slot that is taken."""
    params = install.sampling
    wrong = [token for token in params.logit_bias if not 0 <= token < vocab_size]
    error = f"logit_bias names token {wrong[0]}, which is not in the vocabulary" if wrong else None
    grammar = None
    if params.grammar is not None:
        if grammars is None:
            error = error or "this engine cannot follow grammars"
        else:
            grammar = grammars.matcher(params.grammar, params.eos_token_ids, install.output_ids)
    allowed = None
    if params.allowed_token_ids is not None:
        bits = np.zeros(vocab_size, np.bool_)
        bits[[token for token in params.allowed_token_ids if 0 <= token < vocab_size]] = True
        allowed = pack_bits(bits, -(-vocab_size // 32))
    eos = () if params.ignore_eos else params.eos_token_ids
    penalties = bool(params.presence_penalty or params.frequency_penalty) or params.repetition_penalty != 1.0
    by_history = params.grammar is not None or bool(params.bad_words)
    adjusted = penalties or by_history or bool(params.logit_bias or params.min_tokens) or allowed is not None
    return SlotConstraints(
        params=params,
        plain=params.temperature == 0 and not adjusted,
        has_penalties=penalties,
        by_history=by_history,
        num_launched=len(install.output_ids),
        error=error,
        grammar=grammar,
        bad_words=tuple([word for word in params.bad_words if word]),
        early=(*params.stop_token_ids, *eos),
        allowed=allowed,
        output_ids=list(install.output_ids),
    )


def pack_bits(allowed_V: npt.NDArray[np.bool_], num_words: int) -> Words:
    """Bit t % 32 of word t / 32: token t may be chosen."""
    packed = np.packbits(allowed_V, bitorder="little")
    return np.pad(packed, (0, 4 * num_words - len(packed))).view(np.int32)
