"""Which sequences run in the next step: token-level continuous batching.

Responsible for: admission, the token budget of a step (decode rows first, then prefill in chunks),
preemption, when a sequence ends, and what is reported for it. Pure: no clock, no await, no randomness; `now`
comes in. Owns the sequences, their blocks (BlockTables) and slots. Leaves to others: computing and sampling
(Runner), and words, stop strings and placement across engines (the server).

    add --> waiting --admit--> running --commit--> finished        preempt: running --> waiting, by recompute
               |  ^               |                                abort: from anywhere, between steps
               v  | woken         | leads
             parked <-------------+        a follower waits while its leader computes what both need

Invariants (`check_invariants`): slots and blocks are conserved; the best running sequence always makes
progress (it may take blocks from all others, and alone it fits by construction), so every sequence ends.

Order is (urgency, key, arrival). Blocks and slots are taken from worse running sequences for better running
ones; for waiting ones blocks only from a less urgent class, slots from any that is worse ("pausing": that is
what makes application order hold on few slots). Speculative work gets the tokens that are left over, a
small share of a step while others run, and is dropped instead of preempted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from engine.batch import SampledToken, SampledTokens, ScheduledBatch
from engine.cache.block_tables import BlockTables
from engine.cache.radix_tree import Match
from engine.inflight import InFlight
from engine.layout import BatchLayout, Record
from engine.limits import Limits
from engine.running import RunningSet
from engine.sequence import Order, Sequence, Status, from_generate, from_warm, new_order
from engine.types import FinishReason, Generate, Hint, Key, Objective, TokenDelta, Warm
from engine.waiting import WaitingQueue

SPECULATIVE_SHARE = 8
"""While other work runs, speculative prefill gets at most 1/8 of a step's budget."""

DECODES_PER_SPARE_BLOCK = 4
"""Admission leaves a block for every 4 running sequences, which will soon want one: else it would preempt."""


@dataclass(slots=True)
class StepCounts:
    """Of the last schedule() and what happened since."""

    num_tokens: int = 0
    num_preemptions: int = 0
    num_evictions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    shared_keys: int = 0


class BatchScheduler:
    """`schedule` and `commit` alternate; `schedule` may also run ahead of `commit`. Requests change in
    between."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.counts = StepCounts()
        self.tables = BlockTables(
            limits.num_blocks, limits.block_size, caching="prefix-cache" not in limits.disabled
        )
        self._chunked = "chunked-prefill" not in limits.disabled
        self._pausing = not limits.disabled & {"pausing", "prefix-cache"}
        self._dedup = not limits.disabled & {"in-flight-dedup", "prefix-cache"}
        self._layout = BatchLayout(limits.block_size, share="shared-prefix-attention" not in limits.disabled)
        self._in_flight = InFlight(limits.block_size)
        self._sequences: dict[int, Sequence] = {}
        self._waiting = WaitingQueue()
        self._running = RunningSet(limits.max_num_seqs)
        self._suspects: list[Sequence] = []
        self._deltas: list[TokenDelta] = []
        self._steps: deque[tuple[int, list[Record]]] = deque()
        self._step_id = 0
        self._arrivals = 0
        self._chosen: dict[Sequence, int] = {}
        self._budget = 0

    @property
    def has_work(self) -> bool:
        return bool(self._sequences or self._deltas)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._sequences) - len(self._running)

    def add(self, request: Generate | Warm, now: float = 0.0) -> None:
        """Queue a request. One that can never run ends with an error delta, alone."""
        if request.id in self._sequences:
            raise ValueError(f"request {request.id} is already running")
        if problem := self.limits.problem(request):
            self._deltas.append(TokenDelta(id=request.id, finish_reason="error", error=problem))
            return
        self._arrivals += 1
        if isinstance(request, Warm):
            sequence = from_warm(request, self._arrivals, now)
        else:
            sequence = from_generate(request, self._arrivals, self.limits.capacity)
            if len(sequence.tokens) >= sequence.max_tokens_total:
                self._deltas.append(TokenDelta(id=request.id, finish_reason="length"))
                return
        self._sequences[sequence.id] = sequence
        self._waiting.push(sequence)

    def abort(self, request_id: int) -> None:
        """Drop a request; nothing is reported for it. Unknown ids are ignored."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._end(sequence)

    def reprioritise(self, request_id: int, objective: Objective, key: Key) -> None:
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return
        sequence.own_order = new_order(sequence, objective, key)
        strictest = min((entry[2].order for entry in sequence.followers), default=sequence.own_order)
        self._reorder(sequence, min(sequence.own_order, _in_place_of(strictest, sequence)))
        if sequence.leader is not None:
            self._lend_order(sequence, sequence.leader)

    def hint(self, request: Hint) -> None:
        salts = tuple(sorted(request.salts, key=lambda salt: salt.start))
        self.tables.tree.hint(request.token_ids, salts, request.next_use)

    def take_deltas(self) -> list[TokenDelta]:
        """Reports of requests that ended outside a step."""
        deltas, self._deltas = self._deltas, []
        return deltas

    def schedule(self, now: float = 0.0) -> ScheduledBatch | None:
        """The next step's work; None: nothing can run before a step in flight has been committed."""
        tree = self.tables.tree
        tree.tick()
        self.counts, evictions = StepCounts(), tree.num_evictions
        self._chosen, self._budget = {}, self.limits.max_num_batched_tokens
        if self._suspects:
            self._schedule_suspect()
        else:
            self._schedule_decodes()
            self._schedule_prefills()
            self._schedule_waiting(now)
        self.counts.num_evictions = tree.num_evictions - evictions
        return self._batch() if self._chosen else None

    def commit(self, results: SampledTokens) -> list[TokenDelta]:
        """What the oldest step in flight has produced."""
        step_id, records = self._steps.popleft()
        if step_id != results.step_id:
            raise ValueError(f"results of step {results.step_id} came before those of step {step_id}")
        self.tables.pool.end_step(step_id)
        deltas = self.take_deltas()
        sampled = iter(results.tokens)
        for record in records:
            token = next(sampled) if record.sample else None
            sequence = record.sequence
            if sequence.life != record.life:
                continue  # it ended, was preempted or dropped meanwhile: overshoot
            if record.end is not None:
                sequence.num_committed = record.end
                self._prefilled(sequence)
            else:
                sequence.num_committed += 1
                if sequence.num_committed % self.limits.block_size == 0 and self.tables.publish(sequence):
                    self._layout.moved()
            if token is not None:
                deltas.append(self._accept(sequence, token))
        deltas.extend(self.take_deltas())
        return deltas

    def fail(self, step_id: int, message: str) -> list[TokenDelta]:
        """The oldest step in flight raised. Alone in it, a sequence ends with the error; several are set back
        and run one by one, until the one that cannot run has been found."""
        failed_id, records = self._steps.popleft()
        if step_id != failed_id:
            raise ValueError(f"step {step_id} failed before step {failed_id} was committed")
        self.tables.pool.end_step(step_id)
        live = [record.sequence for record in records if record.sequence.life == record.life]
        if len(live) == 1:
            self._deltas.append(self._finish(live[0], "error", message))
        else:
            for sequence in sorted(live, key=lambda each: each.order, reverse=True):
                if sequence.sampling is not None:
                    self._mark_suspect(sequence)
                self._preempt(sequence)
        return self.take_deltas()

    def _schedule_decodes(self) -> None:
        for sequence in self._running.in_order():
            if self._budget == 0:
                return
            if sequence.status is not Status.RUNNING or not sequence.may_decode:
                continue
            end = sequence.num_scheduled + 1
            if end > len(sequence.blocks) * self.limits.block_size and not self._make_room(sequence, end):
                continue
            self._chosen[sequence] = 1
            self._budget -= 1

    def _schedule_prefills(self) -> None:
        for sequence in self._running.in_order():
            if self._budget <= 0:
                return
            if sequence.status is Status.RUNNING and sequence.prefilling:
                self._continue_prefill(sequence)

    def _continue_prefill(self, sequence: Sequence) -> None:
        wanted = self._prefill_length(sequence, sequence.num_scheduled)
        room = self._make_room(sequence, sequence.num_scheduled + wanted) if wanted else 0
        if room:
            self._choose(sequence, min(wanted, room))

    def _schedule_waiting(self, now: float) -> None:
        while self._budget > 0 and (sequence := self._waiting.peek()) is not None:
            if sequence.expires_at is not None and sequence.expires_at < now:
                self._deltas.append(self._finish(sequence, "abort"))
            elif not self._admit(sequence):
                return

    def _schedule_suspect(self) -> None:
        """One sequence alone, from its first step to its first sample; whatever it takes."""
        sequence = self._suspects[0]
        while True:
            if sequence.status is Status.RUNNING:
                self._continue_prefill(sequence)
            elif self._running.has_slot:
                self._start(sequence, self.tables.match(sequence))
            victim = self._running.worst(beside=sequence)
            if self._chosen or victim is None or not self._may_preempt():
                return
            self._preempt(victim)

    def _admit(self, sequence: Sequence) -> bool:
        """Start or park the first of the queue. False: it has to wait, and so have all behind it."""
        while True:
            match = self.tables.match(sequence)
            if self._dedup and (found := self._in_flight.find(sequence, match)):
                self._park(sequence, *found)
                return True
            if match.num_tokens(self.limits.block_size) == len(sequence.tokens):
                self._deltas.append(self._finish(sequence, "stop"))  # a Warm whose ids are all there
                return True
            if self._prefill_length(sequence, match.num_tokens(self.limits.block_size)) == 0:
                return False
            if self._running.has_slot and self._start(sequence, match):
                return True
            victim = self._running.worst()
            if victim is None or not self._gives_way(victim, sequence) or not self._may_preempt():
                return False
            self._preempt(victim)

    def _gives_way(self, victim: Sequence, sequence: Sequence) -> bool:
        """A less urgent class gives up slot and blocks. Within a class a slot goes to who is earlier in the
        order: a call that continues an application which came before. The paused one's blocks stay in the
        tree, so it loses next to nothing."""
        if victim.order[0] != sequence.order[0]:
            return victim.order[0] > sequence.order[0]
        return self._pausing and not self._running.has_slot and victim.order > sequence.order

    def _start(self, sequence: Sequence, match: Match) -> bool:
        """Take slot and blocks for the next chunk. Where memory is short, do without the partial block's
        copy: that one needs the source and the target."""
        spare = len(self._running) // DECODES_PER_SPARE_BLOCK
        for partial in (True, False) if match.partial else (False,):
            if self.tables.take(sequence, match, partial=partial):
                begin = len(match.blocks) * self.limits.block_size + (match.partial_tokens if partial else 0)
                wanted = self._prefill_length(sequence, begin)
                room = self.tables.grow(sequence, begin + wanted, keep=spare) - begin
                if room >= (1 if self._chunked else wanted) and wanted:
                    self._begin(sequence, begin, min(wanted, room))
                    return True
            self.tables.release(sequence)
        return False

    def _begin(self, sequence: Sequence, begin: int, length: int) -> None:
        self._waiting.remove(sequence)
        sequence.status = Status.RUNNING
        sequence.installed = False
        sequence.blocks_changed = True
        sequence.prefill_end = len(sequence.tokens)
        sequence.num_scheduled = begin
        sequence.num_committed = sequence.num_published * self.limits.block_size  # a copy is not made yet
        if sequence.cached_tokens is None:
            sequence.cached_tokens = min(begin, sequence.num_prompt)
            self.counts.prefix_queries += sequence.num_prompt
            self.counts.prefix_hits += sequence.cached_tokens
        self._running.add(sequence)
        self._choose(sequence, length)
        if self._dedup:
            self._in_flight.register(sequence)

    def _park(self, sequence: Sequence, leader: Sequence, target: int) -> None:
        self._waiting.remove(sequence)
        self._in_flight.follow(sequence, leader, target)
        self._lend_order(sequence, leader)

    def _lend_order(self, sequence: Sequence, leader: Sequence) -> None:
        """The owner of a block takes the strictest objective of those who wait for it."""
        if sequence.order < leader.order:
            self._reorder(leader, min(leader.order, _in_place_of(sequence.order, leader)))

    def _prefill_length(self, sequence: Sequence, begin: int) -> int:
        """Tokens of a sequence for this step; 0: none before a later step."""
        wanted = len(sequence.tokens) - begin
        if not self._chunked:  # whole prompts; one that exceeds the budget runs as the only one
            return wanted if wanted <= self._budget or not self._has_prefill() else 0
        if sequence.speculative and any(not other.speculative for other in self._chosen):
            share = max(self.limits.max_num_batched_tokens // SPECULATIVE_SHARE, 1)
            used = sum(length for other, length in self._chosen.items() if other.speculative)
            return max(min(wanted, self._budget, share - used), 0)
        return min(wanted, self._budget)

    def _has_prefill(self) -> bool:
        return any(sequence.prefilling for sequence in self._chosen)

    def _choose(self, sequence: Sequence, length: int) -> None:
        self._chosen[sequence] = length
        self._budget -= length

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
        """Set a running sequence back; what it has computed stays in the tree for as long as there is
        room."""
        self.counts.num_preemptions += 1
        self._leave_slot(sequence)
        if sequence.sampling is None:
            self._deltas.append(self._finish(sequence, "abort"))
            return
        sequence.num_scheduled = sequence.num_committed = 0
        sequence.order = sequence.own_order
        self._waiting.push(sequence)

    def _leave_slot(self, sequence: Sequence) -> None:
        if sequence in self._chosen:
            self._budget += self._chosen.pop(sequence)
        self.tables.publish(sequence, partial=True)
        self.tables.release(sequence)
        self._layout.moved()
        self._running.remove(sequence)
        sequence.life += 1
        sequence.status = Status.WAITING
        self._wake(self._in_flight.leave(sequence))

    def _prefilled(self, sequence: Sequence) -> None:
        """A chunk is done: others may use it now."""
        done = sequence.num_committed == sequence.prefill_end
        if self.tables.publish(sequence, partial=done):
            self._layout.moved()
        if done:
            self._wake(self._in_flight.leave(sequence))
            self._reorder(sequence, sequence.own_order)
        elif self._dedup:
            self._in_flight.register(sequence)
            self._wake(self._in_flight.progress(sequence))
        if done and sequence.sampling is None:
            self._deltas.append(self._finish(sequence, "stop"))

    def _accept(self, sequence: Sequence, token: SampledToken) -> TokenDelta:
        if token.slot != sequence.slot:
            raise ValueError(f"a sample of slot {token.slot} came for slot {sequence.slot}")
        if token.error is not None:
            return self._finish(sequence, "error", token.error)
        if sequence.suspect:
            self._clear_suspect(sequence)
        reason, token_id = sequence.append(token.token_id), token.token_id
        if reason is not None:
            self._end(sequence)
        stopped = reason == "stop"
        return TokenDelta(
            id=sequence.id,
            token_ids=() if stopped else (token_id,),
            finish_reason=reason,
            stop_token_id=token_id if stopped else None,
            cached_tokens=sequence.cached_tokens or 0,
            logprobs=() if stopped or token.logprobs is None else (token.logprobs,),
        )

    def _finish(self, sequence: Sequence, reason: FinishReason, error: str | None = None) -> TokenDelta:
        self._end(sequence)
        return TokenDelta(
            id=sequence.id, finish_reason=reason, cached_tokens=sequence.cached_tokens or 0, error=error
        )

    def _end(self, sequence: Sequence) -> None:
        if sequence.status is Status.RUNNING:
            self._leave_slot(sequence)
        elif sequence.status is Status.PARKED:
            self._in_flight.unfollow(sequence)
        elif sequence.ticket:
            self._waiting.remove(sequence)
        if sequence.suspect:
            self._clear_suspect(sequence)
        sequence.status = Status.FINISHED
        self._sequences.pop(sequence.id, None)

    def _wake(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            self._waiting.push(sequence)

    def _reorder(self, sequence: Sequence, order: Order) -> None:
        if order == sequence.order:
            return
        if sequence.status is Status.RUNNING:
            self._running.reorder(sequence, order)
        else:
            sequence.order = order
            if sequence.status is Status.WAITING:
                self._waiting.moved(sequence)

    def _mark_suspect(self, sequence: Sequence) -> None:
        if not sequence.suspect:
            sequence.suspect = True
            self._suspects.append(sequence)

    def _clear_suspect(self, sequence: Sequence) -> None:
        sequence.suspect = False
        self._suspects.remove(sequence)

    def _batch(self) -> ScheduledBatch:
        self._step_id += 1
        batch, records = self._layout.build(self._step_id, self._chosen)
        self._steps.append((self._step_id, records))
        self.tables.pool.begin_step(self._step_id)
        for sequence in self._chosen if batch.copies else ():
            self.tables.copied(sequence)
        self.counts.num_tokens = sum(self._chosen.values())
        self.counts.shared_keys = batch.plan.shared_keys
        return batch

    def sequences(self) -> Iterator[Sequence]:
        return iter(self._sequences.values())

    def check_invariants(self) -> None:
        """What must hold between any two calls."""
        self._waiting.check_invariants()
        self._in_flight.check_invariants()
        self._running.check_invariants()
        self.tables.check_invariants(self._running.in_order())
        waiting, running = set(self._waiting), set(self._running.in_order())
        for sequence in self._sequences.values():
            assert (sequence in running) == (sequence.status is Status.RUNNING)
            assert (sequence in waiting) == (sequence.status is Status.WAITING)
            self._check_sequence(sequence)
        assert len(waiting) + len(running) <= len(self._sequences)
        assert all(sequence.suspect for sequence in self._suspects)

    def _check_sequence(self, sequence: Sequence) -> None:
        if sequence.status is Status.RUNNING:
            assert sequence.num_committed <= sequence.num_scheduled
            assert sequence.num_scheduled <= len(sequence.blocks) * self.limits.block_size
            assert sequence.num_published * self.limits.block_size <= sequence.num_committed
            assert sequence.order <= sequence.own_order
        else:
            assert not sequence.blocks
            assert sequence.copy is None
            assert not sequence.followers
        if sequence.status is Status.PARKED:
            assert sequence.leader is not None
            assert sequence.leader.status is Status.RUNNING
            assert sequence.leader.order[:2] <= sequence.order[:2]
            assert any(entry[2] is sequence for entry in sequence.leader.followers)
            assert all(target > sequence.leader.num_committed for target, _, _ in sequence.leader.followers)


def _in_place_of(order: Order, sequence: Sequence) -> Order:
    """The urgency and key of another sequence, and its own arrival: orders stay unique."""
    return (order[0], order[1], sequence.arrival)
