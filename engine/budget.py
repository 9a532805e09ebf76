"""What the step that is being put together may still take, and who is in it.

Responsible for: the token budget of a step and the rules that split it: whole prompts where chunking is off, a
small share for speculative work while other work runs. Leaves to others: who asks, and in what order
(BatchScheduler), and the time of a step (Pace).
"""

from __future__ import annotations

from engine.limits import Limits
from engine.pace import Pace
from engine.sequence import Sequence

SPECULATIVE_SHARE = 8
"""While other work runs, speculative prefill gets at most 1/8 of a step's budget, and of its time."""

MIN_SPECULATIVE = 16
"""Tokens. It goes on all the same; less is not worth a row in the step."""

MAX_SHARES = 32
"""What would take more steps than that beside others waits until it is alone: in so small parts it would read its
own KV again and again, which costs more than what is saved."""

SCORED_LOGITS = 2**24
"""Of a prompt whose tokens get log-probabilities: so many logits at most are held at once."""


class StepBudget:
    """Owns `chosen`: how many tokens of each sequence are in the step."""

    def __init__(self, limits: Limits, pace: Pace) -> None:
        self.chosen: dict[Sequence, int] = {}
        self.tokens = 0
        self._pace = pace
        self._size = limits.max_num_batched_tokens
        self._scored = max(SCORED_LOGITS // limits.vocab_size, 1)
        self._chunked = "chunked-prefill" not in limits.disabled

    def begin(self) -> None:
        """A new step: nobody is in it."""
        self.chosen, self.tokens = {}, self._size
        self._pace.begin()

    def choose(self, sequence: Sequence, length: int) -> None:
        self.chosen[sequence] = length
        self.tokens -= length
        self._pace.spend(sequence, length)

    def drop(self, sequence: Sequence) -> None:
        """It leaves the step, if it was in it."""
        self.tokens += self.chosen.pop(sequence, 0)

    def prefill_length(self, sequence: Sequence, begin: int) -> int:
        """Tokens of a sequence, from position `begin` on, for this step; 0: none before a later step."""
        wanted = self._within_tokens(sequence, len(sequence.tokens) - begin)
        return self._pace.prefill_length(sequence, begin, wanted, self.least(wanted))

    def least(self, wanted: int) -> int:
        """The smallest part of `wanted` prefill tokens that may run."""
        return 1 if self._chunked else wanted

    def _within_tokens(self, sequence: Sequence, wanted: int) -> int:
        if sequence.scores_prompt and self._chunked:
            wanted = min(wanted, self._scored)
        if not self._chunked:  # whole prompts; one that exceeds the budget runs as the only one
            return wanted if wanted <= self.tokens or not self._has_prefill() else 0
        if sequence.speculative and any(not other.speculative for other in self.chosen):
            time = self._pace.tokens_for(1 / SPECULATIVE_SHARE, len(self.chosen))
            share = max(min(self._size // SPECULATIVE_SHARE, max(time, MIN_SPECULATIVE)), 1)
            if wanted > share * MAX_SHARES:
                return 0
            used = sum(length for other, length in self.chosen.items() if other.speculative)
            return max(min(wanted, self.tokens, share - used), 0)
        return min(wanted, self.tokens)

    def _has_prefill(self) -> bool:
        return any(sequence.prefilling for sequence in self.chosen)
