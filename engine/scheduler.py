"""Which sequences run in the next step: token-level continuous batching.

Responsible for: admission, what a step consists of (decode rows first, then prefill in chunks, under one
budget), who is preempted, when a sequence ends, and what is reported for it. Pure: no clock, no await, no
randomness; `now` comes in. Owns the Population and its blocks (BlockTables). Leaves to others: computing and
sampling (Runner), and words, stop strings and placement across engines (the server).

Invariant: the best running sequence always makes progress (it may take blocks from all others, and alone it
fits by construction), so every sequence ends.

Order is (urgency, key, arrival); where several tenants wait within a class, who was served least goes first
(Shares). Blocks and slots are taken from worse running sequences for better running ones; for waiting ones
blocks only from a less urgent class, slots also from a worse one of their tenant whose application came later
("pausing": that is what makes application order hold on few slots). Speculative work gets the tokens that are
left over, a small share of a step while others run, and is dropped instead of preempted. Where somebody who
decodes has a limit on the time of a step, the less urgent are put in as far as that allows (Pace).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from engine.batch import SampledTokens, ScheduledBatch
from engine.budget import StepBudget
from engine.cache.block_tables import BlockTables
from engine.cache.radix_tree import Match
from engine.layout import BatchLayout, Record
from engine.limits import Limits
from engine.pace import Pace
from engine.population import Population, StepCounts
from engine.sequence import Sequence, Status, from_generate, from_warm
from engine.step_model import Load, StepModel, load_of
from engine.types import FinishReason, Generate, Hint, Key, Objective, TokenDelta, Urgency, Warm

DECODES_PER_SPARE_BLOCK = 4
"""Admission leaves a block for every 4 running sequences, which will soon want one: else it would preempt."""

Paced = tuple[Load, float | None]
"""What a step has to do, and the limit in milliseconds that it had."""


class BatchScheduler:
    """`schedule` and `commit` alternate; `schedule` may also run ahead of `commit`. Requests change in
    between."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.tables = BlockTables(
            limits.num_blocks, limits.block_size, caching="prefix-cache" not in limits.disabled
        )
        self._pausing = not limits.disabled & {"pausing", "prefix-cache"}
        self._dedup = not limits.disabled & {"in-flight-dedup", "prefix-cache"}
        self._pacing = "objective-batching" not in limits.disabled
        share = "shared-prefix-attention" not in limits.disabled
        self._layout = BatchLayout(limits.block_size, share=share)
        self._population = Population(limits, self.tables, self._layout)
        self._running, self._waiting = self._population.running, self._population.waiting
        self._model = StepModel()
        self._pace = Pace(self._model, limits.block_size, share=share)
        self._budget = StepBudget(limits, self._pace)
        self._steps: deque[tuple[int, list[Record], Paced]] = deque()
        self._committed: Paced | None = None
        self._step_id = 0
        self._arrivals = 0

    @property
    def has_work(self) -> bool:
        return bool(self._population.by_id or self._population.deltas)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Of those that somebody waits for: what only fills the cache is no queue."""
        waiting = len(self._population.by_id) - len(self._running)
        if not self._population.num_ahead:
            return waiting
        running = sum(sequence.sampling is None for sequence in self._running.in_order())
        return waiting - (self._population.num_ahead - running)

    @property
    def counts(self) -> StepCounts:
        return self._population.counts

    def add(self, request: Generate | Warm, now: float = 0.0) -> None:
        """Queue a request. One that can never run ends with an error delta, alone."""
        population = self._population
        if request.id in population.by_id:
            raise ValueError(f"request {request.id} is already running")
        if problem := self.limits.problem(request):
            population.deltas.append(TokenDelta(id=request.id, finish_reason="error", error=problem))
            return
        self._arrivals += 1
        if isinstance(request, Warm):
            sequence = from_warm(request, self._arrivals, now)
        else:
            sequence = from_generate(request, self._arrivals, self.limits.capacity)
            if len(sequence.tokens) >= sequence.max_tokens_total:
                population.deltas.append(TokenDelta(id=request.id, finish_reason="length"))
                return
        sequence.arrived_at = now
        population.add(sequence)

    def abort(self, request_id: int) -> None:
        """Drop a request; nothing is reported for it. Unknown ids are ignored."""
        sequence = self._population.by_id.get(request_id)
        if sequence is not None:
            self._population.end(sequence)

    def reprioritise(self, request_id: int, objective: Objective, key: Key) -> None:
        sequence = self._population.by_id.get(request_id)
        if sequence is not None:
            self._population.reprioritise(sequence, objective, key)

    def hint(self, request: Hint) -> None:
        """When some ids are wanted next, or that they are not; where that is off, the least recently used
        go first, whatever is said."""
        if "next-use-eviction" not in self.limits.disabled:
            self._population.hint(request)

    def take_deltas(self) -> list[TokenDelta]:
        """Reports of requests that ended outside a step."""
        return self._population.take_deltas()

    def schedule(self, now: float = 0.0) -> ScheduledBatch | None:
        """The next step's work; None: nothing can run before a step in flight has been committed."""
        tree = self.tables.tree
        tree.tick()
        self._population.begin_step(now)
        self._budget.begin()
        evictions = tree.num_evictions
        if self._population.suspects:
            self._schedule_suspect()
        else:
            self._schedule_by_urgency(now)
        self._pace.end()
        self.counts.num_evictions = tree.num_evictions - evictions
        return self._batch() if self._budget.chosen else None

    def commit(self, results: SampledTokens) -> list[TokenDelta]:
        """What the oldest step in flight has produced."""
        step_id, records, self._committed = self._steps.popleft()
        if step_id != results.step_id:
            raise ValueError(f"results of step {results.step_id} came before those of step {step_id}")
        self.tables.pool.end_step(step_id)
        deltas = self.take_deltas()
        sampled = iter(results.tokens)
        scores = {each.slot: each.logprobs for each in results.scores}
        for record in records:
            token = next(sampled) if record.sample else None
            sequence = record.sequence
            if sequence.life != record.life:
                continue  # it ended, was preempted or dropped meanwhile: overshoot
            if scores and sequence.slot in scores:
                sequence.prompt_logprobs += scores[sequence.slot]
            if record.end is not None:
                sequence.num_committed = record.end
                self._population.prefilled(sequence)
            else:
                self._population.decoded(sequence)
            if token is not None:
                deltas.append(self._population.accept(sequence, token))
        deltas.extend(self.take_deltas())
        return deltas

    def fail(self, step_id: int, message: str) -> list[TokenDelta]:
        """The oldest step in flight raised. Alone in it, a sequence ends with the error; several are set back
        and run one by one, until the one that cannot run has been found."""
        failed_id, records, _ = self._steps.popleft()
        if step_id != failed_id:
            raise ValueError(f"step {step_id} failed before step {failed_id} was committed")
        self.tables.pool.end_step(step_id)
        population = self._population
        live = [record.sequence for record in records if record.sequence.life == record.life]
        if len(live) == 1:
            population.deltas.append(population.finish(live[0], "error", message))
        else:
            for sequence in sorted(live, key=lambda each: each.order, reverse=True):
                if sequence.sampling is not None:
                    population.mark_suspect(sequence)
                population.preempt(sequence)
        return self.take_deltas()

    def observe(self, step_ms: float) -> None:
        """How long the step that was committed last has taken; it may be left out."""
        if self._committed is not None:
            load, limit_ms = self._committed
            self._model.observe(load, step_ms)
            if limit_ms is not None:
                self._pace.observe(limit_ms, step_ms)
            self._committed = None

    def step_times(self) -> tuple[float, float, float] | None:
        """Milliseconds of a step, of a sequence and of a KV token in it, as learnt; None: that was told before."""
        return self._model.news()

    def _schedule_by_urgency(self, now: float) -> None:
        """All decodes, then all prefill. Where a step has a limit, both for the latency class first, and then
        for the others with the time that is left."""
        running = self._running.in_order()
        urgent = [sequence for sequence in running if sequence.order[0] == Urgency.LATENCY]
        rest = running[len(urgent) :]
        self._schedule_decodes(urgent)
        limit_ms = self._strictest_limit() if self._pacing else None
        if limit_ms is not None:
            self._pace.limit(limit_ms, self._budget.chosen)
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
                for sequence in self._budget.chosen
                if sequence.step_limit_ms is not None and sequence.own_order[0] == Urgency.LATENCY
            ),
            default=None,
        )

    def _schedule_decodes(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            if self._budget.tokens == 0:
                return
            if sequence.status is not Status.RUNNING or not sequence.may_decode:
                continue
            if not self._pace.allows_decode(sequence):
                return
            end = sequence.num_scheduled + 1
            if end > len(sequence.blocks) * self.limits.block_size and not self._make_room(sequence, end):
                continue
            self._budget.choose(sequence, 1)

    def _schedule_prefills(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            if self._budget.tokens <= 0:
                return
            if sequence.status is Status.RUNNING and sequence.prefilling:
                self._continue_prefill(sequence)

    def _continue_prefill(self, sequence: Sequence) -> None:
        wanted = self._budget.prefill_length(sequence, sequence.num_scheduled)
        room = self._make_room(sequence, sequence.num_scheduled + wanted) if wanted else 0
        if room:
            self._budget.choose(sequence, min(wanted, room))

    def _schedule_waiting(self, now: float, least_urgent: Urgency = Urgency.SPECULATIVE) -> None:
        while self._budget.tokens > 0 and (sequence := self._waiting.peek()) is not None:
            if sequence.order[0] > least_urgent:
                return
            if sequence.expires_at is not None and sequence.expires_at < now:
                self._finish(sequence, "abort")
            elif not self._admit(sequence):
                return

    def _schedule_suspect(self) -> None:
        """One sequence alone, from its first step to its first sample; whatever it takes."""
        sequence = self._population.suspects[0]
        while True:
            if sequence.status is Status.RUNNING:
                self._continue_prefill(sequence)
            elif self._running.has_slot:
                self._start(sequence, self.tables.match(sequence))
            victim = self._running.worst(beside=sequence)
            if self._budget.chosen or victim is None or not self._may_preempt():
                return
            self._preempt(victim)

    def _admit(self, sequence: Sequence) -> bool:
        """Start or park the first of the queue. False: it has to wait, and so have all behind it."""
        while True:
            match = self.tables.match(sequence)
            if self._dedup and (found := self._population.in_flight.find(sequence, match)):
                self._population.park(sequence, *found)
                return True
            if match.num_tokens(self.limits.block_size) == len(sequence.tokens):
                sequence.cached_tokens = len(sequence.tokens)
                self._finish(sequence, "stop")  # a Warm whose ids are all there
                return True
            if self._budget.prefill_length(sequence, match.num_tokens(self.limits.block_size)) == 0:
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
            if self.tables.take(sequence, match, partial=partial):
                begin = len(match.blocks) * self.limits.block_size + (match.partial_tokens if partial else 0)
                wanted = self._budget.prefill_length(sequence, begin)
                room = self.tables.grow(sequence, begin + wanted, keep=spare) - begin
                if room >= self._budget.least(wanted) and wanted:
                    self._population.start(sequence, begin)
                    self._budget.choose(sequence, min(wanted, room))
                    return True
            self.tables.release(sequence)
        return False

    def _make_room(self, sequence: Sequence, num_tokens: int) -> int:
        """Blocks up to `num_tokens` tokens, or fewer; taken from worse sequences if there is none for the
        next token. Returns for how many tokens beyond num_scheduled there is room."""
        while True:
            self._layout.grown()
            room = self.tables.grow(sequence, num_tokens) - sequence.num_scheduled
            if room > 0:
                return room
            victim = self._running.worst()
            if victim is None or victim is sequence or not self._may_preempt():
                return 0  # it keeps what it has: a better one may take it
            self._preempt(victim)

    def _may_preempt(self) -> bool:
        """Not while blocks are on their way back from a step in flight: wait for them."""
        return self.tables.pool.num_quarantined == 0

    def _preempt(self, sequence: Sequence) -> None:
        self._budget.drop(sequence)
        self._population.preempt(sequence)

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """It ends without a step."""
        self._population.deltas.append(self._population.finish(sequence, reason))

    def _batch(self) -> ScheduledBatch:
        self._step_id += 1
        self._population.shares.charge_step(self._budget.chosen)
        batch, records = self._layout.build(self._step_id, self._budget.chosen)
        self._steps.append((self._step_id, records, (load_of(batch), self._pace.limit_ms)))
        self.tables.pool.begin_step(self._step_id)
        for sequence in self._budget.chosen if batch.copies else ():
            self.tables.copied(sequence)
        self.counts.num_tokens = sum(self._budget.chosen.values())
        self.counts.shared_keys = batch.plan.shared_keys
        return batch

    def sequences(self) -> Iterator[Sequence]:
        return iter(self._population.by_id.values())

    def check_invariants(self) -> None:
        """What must hold between any two calls."""
        self._population.check_invariants()
