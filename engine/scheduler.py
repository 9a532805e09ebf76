"""The requests of an engine, step by step: token-level continuous batching.

Responsible for: taking requests and changes of them, the steps in flight and what their results mean: who came
further, who ends, what is reported; what is learnt of how long steps take. Pure: no clock, no await, no randomness;
`now` comes in. Owns the Population and its blocks (BlockTables). Leaves to others: what a step consists of
(StepComposer), computing and sampling (Runner), and words, stop strings and placement across engines (the server).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from engine import handover
from engine.batch import SampledTokens, ScheduledBatch
from engine.cache.block_tables import BlockTables
from engine.composer import StepComposer
from engine.layout import BatchLayout, Record
from engine.limits import Limits
from engine.pace import Pace
from engine.population import Population, StepCounts
from engine.sequence import Sequence, from_generate, from_warm
from engine.step_model import Load, StepModel, load_of
from engine.types import Generate, Hint, Key, Objective, TokenDelta, Warm

Paced = tuple[Load, float | None]
"""What a step has to do, and the limit in milliseconds that it had."""


class BatchScheduler:
    """`schedule` and `commit` alternate; `schedule` may also run ahead of `commit`. Requests change in
    between."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        caching = "prefix-cache" not in limits.disabled
        self.tables = BlockTables(limits.num_blocks, limits.block_size, caching=caching, extent=limits.extent)
        share = "shared-prefix-attention" not in limits.disabled
        self._layout = BatchLayout(limits.block_size, share=share)
        self._population = Population(limits, self.tables, self._layout)
        self._running = self._population.running
        self._model = StepModel()
        self._pace = Pace(self._model, limits.block_size, share=share)
        self._composer = StepComposer(limits, self._population, self.tables, self._layout, self._pace)
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
        """Drop a request; nothing is reported for it, unless it is a Warm. Unknown ids are ignored."""
        sequence = self._population.by_id.get(request_id)
        if sequence is None:
            return
        if sequence.sampling is None:
            self._population.finish_without_a_step(sequence, "abort")
        else:
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
        evictions = tree.num_evictions
        self._composer.compose(now)
        self.counts.num_evictions = tree.num_evictions - evictions
        chosen = self._composer.budget.chosen
        return self._batch(chosen) if chosen else None

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

    @property
    def handover_s(self) -> float:
        """How long the next step should wait for the successors of what has ended in the last one."""
        num_running = sum(sequence.sampling is not None for sequence in self._running.in_order())
        first = self._population.waiting.peek()
        step_ms = self._model.base_ms + self._model.per_sequence_ms * num_running
        return handover.wait_s(num_running, first is not None and not first.speculative, step_ms)

    def step_times(self) -> tuple[float, float, float] | None:
        """Milliseconds of a step, of a sequence and of a KV token in it, as learnt; None: that was told before."""
        return self._model.news()

    def _batch(self, chosen: dict[Sequence, int]) -> ScheduledBatch:
        self._step_id += 1
        self._population.shares.charge_step(chosen)
        batch, records = self._layout.build(self._step_id, chosen, self.tables.take_moves())
        self._steps.append((self._step_id, records, (load_of(batch), self._pace.limit_ms)))
        self.tables.pool.begin_step(self._step_id)
        for sequence in chosen if batch.copies else ():
            self.tables.copied(sequence)
        self.counts.num_tokens = sum(chosen.values())
        self.counts.shared_keys = batch.plan.shared_keys
        return batch

    def sequences(self) -> Iterator[Sequence]:
        return iter(self._population.by_id.values())

    def check_invariants(self) -> None:
        """What must hold between any two calls."""
        self._population.check_invariants()
