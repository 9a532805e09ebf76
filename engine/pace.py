"""How much of a step's time is left, where somebody has a limit on it.

Responsible for: objective-aware batching (scheduling.md, "beyond the paper" 1). The strictest limit of those
who decode is the step's. What the model says of the latency-class decode rows is spent first; the rest is what
prefill and less urgent sequences, by urgency, may take. Who is denied closes the step for all behind, so that
order holds; a running one keeps its slot and its blocks, and is merely not in the step.

    limit  |-- latency decodes --|-- their prefill --|-- less urgent, in order --| denied ...
                 never denied       at least a little    at least FLOOR of those

What is left over, or overdrawn, goes to the next step. However strict a limit is, also one that the engine cannot
keep, the less urgent have their FLOOR: so they go on the slower the less a limit leaves, but never stand still.

Invariants: without a limit nothing is denied; no latency-class decode row is ever denied; as long as any of the
less urgent asks, they get FLOOR of what the latency class takes, except for what is only speculative. Pure: it
decides when something is computed, never what. Leaves to others: the order in which they ask (BatchScheduler),
how long things take (StepModel), and measuring.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from engine.sequence import Sequence
from engine.step_model import StepModel

TARGET = 0.95
"""Of a limit: what a token takes has more in it than its steps."""

CREDIT = 0.5
"""Of a limit: what a step has left, or taken too much, is the next one's, up to this. A limit is on the time per
token, a mean: so the model's bias does not matter, and time too short for a part of a prompt is not lost."""

FLOOR = 1 / 10
"""Of what the latency class takes, which the less urgent get whatever the limit says: chats take at most so much
longer than they would alone."""

MIN_PREFILL = 32
"""Tokens. A smaller part of a prompt costs more in steps than it gains; latency-class prefill, and in its turn
any other, gets so much even if there is no time for it."""


class Pace:
    """Owns the time that is left in the step being put together, of the limit and of the floor, and what earlier
    steps have left or overdrawn."""

    def __init__(self, model: StepModel, block_size: int, *, share: bool) -> None:
        self._model = model
        self._size = block_size
        self._share = share
        self._credit = 0.0  # milliseconds
        self._debt = 0.0  # milliseconds that the floor was overdrawn by
        self.begin()

    def begin(self) -> None:
        """A new step. It has no limit until there is one."""
        self._limit = self._left = inf
        self._floor = 0.0  # milliseconds that may be used although there is no time
        self._read: set[int] = set()  # blocks that the step reads anyway
        self._owed = 0  # prefill tokens that may run although there is no time for them
        self._denied = False

    @property
    def limited(self) -> bool:
        return self._limit != inf

    @property
    def limit_ms(self) -> float | None:
        """Of the step being put together."""
        return self._limit if self.limited else None

    def observe(self, limit_ms: float, step_ms: float) -> None:
        """A step that had a limit took so long."""
        most = limit_ms * CREDIT
        self._credit = min(max(self._credit + limit_ms * TARGET - step_ms, -most), most)

    def limit(self, limit_ms: float, decodes: Iterable[Sequence]) -> None:
        """From here on latency-class prefill asks. `decodes` are in the step whatever they cost."""
        self._limit = limit_ms
        self._left = limit_ms * TARGET - self._model.base_ms + self._credit
        for sequence in decodes:
            self.spend(sequence, 1)
        self._owed = MIN_PREFILL

    def less_urgent(self) -> None:
        """From here on the less urgent ask. What they leave of the floor is not saved up; what it was overdrawn by
        is made good first."""
        share = FLOOR * (self._limit * TARGET + self._credit - self._left)
        self._floor = share - self._debt
        self._owed = MIN_PREFILL if self._floor > 0.0 else 0
        if self._denied:  # somebody more urgent was
            self._left, self._denied = min(self._left, 0.0), False

    def end(self) -> None:
        """Nobody asks any more."""
        self._debt = max(-self._floor, 0.0)
        if not self.limited:
            self._credit = 0.0

    def tokens_for(self, share: float, num_sequences: int) -> int:
        """Prefill tokens that take such a share of the time of a step with so many sequences decoding."""
        model = self._model
        step_ms = model.base_ms + model.per_sequence_ms * num_sequences
        each = model.per_prefill_token_ms
        return int(step_ms * share / each) if each > 0.0 else 2**31

    def allows_decode(self, sequence: Sequence) -> bool:
        if not self.limited or self._floor > 0.0:
            return True
        if not self._denied:
            self._denied = self._cost(sequence, sequence.num_scheduled + 1, 0) > self._left
        return not self._denied

    def prefill_length(self, sequence: Sequence, begin: int, wanted: int, least: int) -> int:
        """How many of `wanted` tokens from position `begin` on may run: at least `least`, or 0."""
        if not self.limited or wanted <= 0 or self._denied:
            return 0 if self._denied else wanted
        model = self._model
        floor, owed = (0.0, 0) if sequence.speculative else (self._floor, self._owed)
        left = max(self._left, floor) - self._cost(sequence, begin, 0)
        each = model.per_kv_token_ms + model.per_prefill_token_ms
        fitting = wanted if left >= wanted * each else int(left / each) if left > 0.0 else 0
        length = min(max(fitting, owed), wanted)
        if owed:
            return max(length, min(least, wanted))
        denied = length < min(max(least, MIN_PREFILL), wanted)
        self._denied = denied and not sequence.speculative  # what waits may be more urgent
        return 0 if denied else length

    def spend(self, sequence: Sequence, length: int) -> None:
        """So many tokens of a running sequence are in the step."""
        if not self.limited:
            return
        prefill = length if sequence.prefilling else 0
        cost = self._cost(sequence, sequence.num_scheduled + length, prefill)
        self._floor -= cost - min(max(self._left, 0.0), cost)
        self._left -= cost
        if self._share:
            self._read.update(sequence.blocks)
        self._owed = max(self._owed - prefill, 0) if prefill else self._owed

    def _cost(self, sequence: Sequence, num_keys: int, prefill: int) -> float:
        """Milliseconds. Keys that the step reads for another sequence are not read again."""
        read = self._size * len(self._read.intersection(sequence.blocks)) if self._read else 0
        model = self._model
        return (
            model.per_sequence_ms
            + model.per_kv_token_ms * max(num_keys - read, 0)
            + model.per_prefill_token_ms * prefill
        )
