"""What the next step consists of: whose tokens, how many, and who makes room for whom.

    decode rows, then prompts in chunks, then those that wait for a slot; for the latency class first, and then for
    the others with the time that is left, where somebody who decodes has a limit on the time of a step (Pace)

Order is (urgency, key, arrival); where several tenants wait within a class, who was served least goes first
(Shares). Blocks and slots are taken from worse running sequences for better running ones; for waiting ones
blocks only from a less urgent class, slots also from a worse one of their tenant whose application came later
("pausing": that is what makes application order hold on few slots). Speculative work gets the tokens that are
left over, a small share of a step while others run, and is dropped instead of preempted.

Responsible for: admission, chunks of prefill, preemption, under one budget. Pure. Invariant: the best running
sequence always makes progress (it may take blocks from all others, and alone it fits by construction), so every
sequence ends. Leaves to others: requests, results and reports (BatchScheduler), and what a change of state takes
(Population).
"""

from __future__ import annotations

from engine.budget import StepBudget
from engine.cache.block_tables import BlockTables
from engine.cache.radix_tree import Match
from engine.layout import BatchLayout
from engine.limits import Limits
from engine.pace import Pace
from engine.population import Population
from engine.sequence import Sequence, Status
from engine.types import Urgency

DECODES_PER_SPARE_BLOCK = 4
"""Admission leaves a block for every 4 running sequences, which will soon want one: else it would preempt."""


class StepComposer:
    """Fills a budget for each step. Owns nothing but that; what it reads and moves is BatchScheduler's."""

    def __init__(
        self, limits: Limits, population: Population, tables: BlockTables, layout: BatchLayout, pace: Pace
    ) -> None:
        self.budget = StepBudget(limits, pace)
        self._population = population
        self._tables = tables
        self._layout = layout
        self._pace = pace
        self._running, self._waiting = population.running, population.waiting
        self._block_size = limits.block_size
        self._pausing = not limits.disabled & {"pausing", "prefix-cache"}
        self._dedup = not limits.disabled & {"in-flight-dedup", "prefix-cache"}
        self._pacing = "objective-batching" not in limits.disabled

    def compose(self, now: float) -> None:
        """`budget.chosen`: how many tokens of whom are in the next step."""
        self.budget.begin()
        if self._population.suspects:
            self._schedule_suspect()
        else:
            self._schedule_by_urgency(now)
        self._pace.end()

    def _schedule_by_urgency(self, now: float) -> None:
        """All decodes, then all prefill. Where a step has a limit, both for the latency class first, and then
        for the others with the time that is left."""
        running = self._running.in_order()
        urgent = [sequence for sequence in running if sequence.order[0] == Urgency.LATENCY]
        rest = running[len(urgent) :]
        self._schedule_decodes(urgent)
        limit_ms = self._strictest_limit() if self._pacing else None
        if limit_ms is not None:
            self._pace.limit(limit_ms, self.budget.chosen)
            self._schedule_prefills(urgent)
            self._schedule_waiting(now, Urgency.LATENCY)
            self._pace.less_urgent()
        self._schedule_decodes(rest)
        self._schedule_prefills(running if limit_ms is None else rest)
        self._schedule_waiting(now)

    def _strictest_limit(self) -> float | None:
        """Of the latency-sensitive who decode in this step: for a prompt, the sooner the better."""
        return min(
            (
                sequence.step_limit_ms
                for sequence in self.budget.chosen
                if sequence.step_limit_ms is not None and sequence.own_order[0] == Urgency.LATENCY
            ),
            default=None,
        )

    def _schedule_decodes(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            if self.budget.tokens == 0:
                return
            if sequence.status is not Status.RUNNING or not sequence.may_decode:
                continue
            if not self._pace.allows_decode(sequence):
                return
            end = sequence.num_scheduled + 1
            if end > len(sequence.blocks) * self._block_size and not self._make_room(sequence, end):
                continue
            self.budget.choose(sequence, 1)

    def _schedule_prefills(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            if self.budget.tokens <= 0:
                return
            if sequence.status is Status.RUNNING and sequence.prefilling:
                self._continue_prefill(sequence)

    def _continue_prefill(self, sequence: Sequence) -> None:
        wanted = self.budget.prefill_length(sequence, sequence.num_scheduled)
        room = self._make_room(sequence, sequence.num_scheduled + wanted) if wanted else 0
        if room:
            self.budget.choose(sequence, min(wanted, room))

    def _schedule_waiting(self, now: float, least_urgent: Urgency = Urgency.SPECULATIVE) -> None:
        while self.budget.tokens > 0 and (sequence := self._waiting.peek()) is not None:
            if sequence.order[0] > least_urgent:
                return
            if sequence.expires_at is not None and sequence.expires_at < now:
                self._population.finish_without_a_step(sequence, "abort")
            elif not self._admit(sequence):
                return

    def _schedule_suspect(self) -> None:
        """One sequence alone, from its first step to its first sample; whatever it takes."""
        sequence = self._population.suspects[0]
        while True:
            if sequence.status is Status.RUNNING:
                self._continue_prefill(sequence)
            elif self._running.has_slot:
                self._start(sequence, self._tables.match(sequence))
            victim = self._running.worst(beside=sequence)
            if self.budget.chosen or victim is None or not self._may_preempt():
                return
            self._preempt(victim)

    def _admit(self, sequence: Sequence) -> bool:
        """Start or park the first of the queue. False: it has to wait, and so have all behind it."""
        while True:
            match = self._tables.match(sequence)
            if self._dedup and (found := self._population.in_flight.find(sequence, match)):
                self._population.park(sequence, *found)
                return True
            if match.num_tokens(self._block_size) == len(sequence.tokens):
                sequence.cached_tokens = len(sequence.tokens)
                self._population.finish_without_a_step(sequence, "stop")  # a Warm whose ids are all there
                return True
            if self.budget.prefill_length(sequence, match.num_tokens(self._block_size)) == 0:
                return False
            if self._running.has_slot and self._start(sequence, match):
                return True
            victim = self._running.who_gives_way(sequence, self._population.shares, pausing=self._pausing)
            if victim is None or not self._may_preempt():
                return False
            self._preempt(victim)

    def _start(self, sequence: Sequence, match: Match) -> bool:
        """Take slot and blocks for the next chunk. Where memory is short, do without the partial block's
        copy: that one needs the source and the target."""
        spare = len(self._running) // DECODES_PER_SPARE_BLOCK
        for partial in (True, False) if match.partial else (False,):
            if self._tables.take(sequence, match, partial=partial):
                begin = len(match.blocks) * self._block_size + (match.partial_tokens if partial else 0)
                wanted = self.budget.prefill_length(sequence, begin)
                room = self._tables.grow(sequence, begin + wanted, keep=spare) - begin
                if room >= self.budget.least(wanted) and wanted:
                    self._population.start(sequence, begin)
                    self.budget.choose(sequence, min(wanted, room))
                    return True
            self._tables.release(sequence)
        return False

    def _make_room(self, sequence: Sequence, num_tokens: int) -> int:
        """Blocks up to `num_tokens` tokens, or fewer; taken from worse sequences if there is none for the
        next token. Returns for how many tokens beyond num_scheduled there is room."""
        while True:
            self._layout.grown()
            room = self._tables.grow(sequence, num_tokens) - sequence.num_scheduled
            if room > 0:
                return room
            victim = self._running.worst()
            if victim is None or victim is sequence or not self._may_preempt():
                return 0  # it keeps what it has: a better one may take it
            self._preempt(victim)

    def _may_preempt(self) -> bool:
        """Not while blocks are on their way back from a step in flight: wait for them."""
        return self._tables.pool.num_quarantined == 0

    def _preempt(self, sequence: Sequence) -> None:
        self.budget.drop(sequence)
        self._population.preempt(sequence)
