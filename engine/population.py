"""The sequences of an engine, and every change of their state.

Responsible for: what has to happen together when a sequence starts, is parked, preempted, comes further or
ends: queues, slots, blocks, leaders and followers, the report of its end. Leaves decisions to others
(BatchScheduler): this module never asks whether.

    waiting --start--> running --end--> finished        preempt: running --> waiting, by recompute
       |  ^               |                             end: from anywhere, between steps
       v  | woken         | leads
     parked <-------------+        a follower waits while its leader computes what both need

Invariants (`check_invariants`): every sequence is in the one place that its status names; slots and blocks are
conserved; a leader runs in the strictest order of its followers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from engine.batch import SampledToken
from engine.cache.block_tables import BlockTables
from engine.cache.radix_tree import Node
from engine.inflight import InFlight
from engine.layout import BatchLayout
from engine.limits import Limits
from engine.running import RunningSet
from engine.sequence import Order, Sequence, Status, ascending, new_order
from engine.shares import Shares
from engine.types import FinishReason, Hint, Key, Objective, TokenDelta, TokenLogprobs
from engine.waiting import WaitingQueue

MAX_ENDED = 512
"""Sequences that have ended whose place in the tree is remembered: hints about them come a step or two later."""


WARM_NEXT_USE = 100
"""Steps in which what a Warm has computed is taken to be wanted: it was computed for somebody who will come."""


@dataclass(slots=True)
class StepCounts:
    """Of the last schedule() and what happened since. num_followed: sequences that ended, whose successors come."""

    num_tokens: int = 0
    num_preemptions: int = 0
    num_evictions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    shared_keys: int = 0
    num_followed: int = 0


class Population:
    """Owns all live sequences, the places they are in, the reports of those that ended outside a step, and where
    in the tree the last ones that ended have left what they had (`ended`, by id).

    `tables` and `layout` are told of what leaves and moves."""

    def __init__(self, limits: Limits, tables: BlockTables, layout: BatchLayout) -> None:
        self.by_id: dict[int, Sequence] = {}
        self.shares = Shares(off="fair-share" in limits.disabled)
        self.waiting = WaitingQueue(self.shares)
        self.running = RunningSet(limits.max_num_seqs)
        self.in_flight = InFlight(limits.block_size)
        self.suspects: list[Sequence] = []
        self.deltas: list[TokenDelta] = []
        self.ended: OrderedDict[int, Node] = OrderedDict()
        self.num_ahead = 0  # sequences that only fill the cache
        self.counts = StepCounts()
        self._now = 0.0  # when the step being put together began
        self._size = limits.block_size
        self._tables = tables
        self._layout = layout
        self._keeps_outputs = "kept-output" not in limits.disabled
        self._hinted = "next-use-eviction" not in limits.disabled
        self._dedup = not limits.disabled & {"in-flight-dedup", "prefix-cache"}

    def begin_step(self, now: float) -> None:
        self.counts, self._now = StepCounts(), now

    def take_deltas(self) -> list[TokenDelta]:
        deltas, self.deltas = self.deltas, []
        return deltas

    def add(self, sequence: Sequence) -> None:
        self.by_id[sequence.id] = sequence
        self.num_ahead += sequence.sampling is None
        self.shares.enter(sequence.tenant)
        self.waiting.push(sequence)

    def start(self, sequence: Sequence, begin: int) -> None:
        """It has blocks, the first `begin` tokens of them computed: it takes a slot."""
        self.waiting.remove(sequence)
        sequence.status = Status.RUNNING
        sequence.installed = False
        sequence.blocks_changed = True
        sequence.prefill_end = len(sequence.tokens)
        sequence.num_scheduled = begin
        sequence.num_committed = sequence.num_published * self._size  # a copy is not made yet
        if sequence.queue_ms is None:
            sequence.queue_ms = (self._now - sequence.arrived_at) * 1e3
        if sequence.cached_tokens is None:
            sequence.cached_tokens = min(begin, sequence.num_prompt)
            self.counts.prefix_queries += sequence.num_prompt
            self.counts.prefix_hits += sequence.cached_tokens
        sequence.prompt_logprobs = []
        self.running.add(sequence)
        if self._dedup:
            self.in_flight.register(sequence)

    def park(self, sequence: Sequence, leader: Sequence, target: int) -> None:
        self.waiting.remove(sequence)
        self.in_flight.follow(sequence, leader, target)
        self._lend_order(sequence, leader)

    def preempt(self, sequence: Sequence) -> None:
        """Set a running sequence back; what it has computed stays in the tree for as long as there is
        room."""
        self.counts.num_preemptions += 1
        self._leave_slot(sequence)
        if sequence.sampling is None:
            self.deltas.append(self.finish(sequence, "abort"))
            return
        sequence.num_scheduled = sequence.num_committed = 0
        sequence.order = sequence.own_order
        self.waiting.push(sequence)

    def prefilled(self, sequence: Sequence) -> None:
        """A chunk is done: others may use it now."""
        done = sequence.num_committed == sequence.prefill_end
        if self._tables.publish(sequence, partial=done):
            self._layout.moved()
        if done:
            self._wake(self.in_flight.leave(sequence))
            self._reorder(sequence, sequence.own_order)
        elif self._dedup:
            self.in_flight.register(sequence)
            self._wake(self.in_flight.progress(sequence))
        if done and sequence.sampling is None:
            self.deltas.append(self.finish(sequence, "stop"))
            if self._hinted and (leaf := self.ended.get(sequence.id)) is not None:
                self._tables.tree.hint_path(leaf, WARM_NEXT_USE)

    def decoded(self, sequence: Sequence) -> None:
        """A decode token is done."""
        sequence.num_committed += 1
        full = sequence.num_committed % self._size == 0
        if full and self._keeps_outputs and self._tables.publish(sequence):
            self._layout.moved()

    def accept(self, sequence: Sequence, token: SampledToken) -> TokenDelta:
        """A sample of it, which may be its last."""
        if token.slot != sequence.slot:
            raise ValueError(f"a sample of slot {token.slot} came for slot {sequence.slot}")
        if token.error is not None:
            return self.finish(sequence, "error", token.error)
        if sequence.suspect:
            self.clear_suspect(sequence)
        first = not sequence.num_generated
        prompt_logprobs: tuple[TokenLogprobs, ...] = ()
        if first and sequence.scores_prompt:
            prompt_logprobs, sequence.prompt_logprobs = tuple(sequence.prompt_logprobs), []
            if len(prompt_logprobs) != sequence.num_prompt - 1:
                return self.finish(sequence, "error", "this engine gives no log-probabilities of prompts")
        reason, token_id = sequence.append(token.token_id), token.token_id
        if reason is not None:
            self.counts.num_followed += sequence.followed
            self.end(sequence)
        stopped = reason == "stop"
        return TokenDelta(
            id=sequence.id,
            token_ids=() if stopped else (token_id,),
            finish_reason=reason,
            stop_token_id=token_id if stopped else None,
            cached_tokens=sequence.cached_tokens or 0,
            logprobs=() if stopped or token.logprobs is None else (token.logprobs,),
            queue_ms=sequence.queue_ms if first else None,
            prompt_logprobs=prompt_logprobs,
        )

    def finish(self, sequence: Sequence, reason: FinishReason, error: str | None = None) -> TokenDelta:
        ahead, cached = sequence.sampling is None, sequence.cached_tokens or 0
        computed = max(sequence.num_committed, cached) if ahead else 0
        self.end(sequence)
        return TokenDelta(
            sequence.id, finish_reason=reason, cached_tokens=cached, error=error, computed_tokens=computed
        )

    def finish_without_a_step(self, sequence: Sequence, reason: FinishReason) -> None:
        """Its report comes with those of the next step."""
        self.deltas.append(self.finish(sequence, reason))

    def end(self, sequence: Sequence) -> None:
        if sequence.status is Status.RUNNING:
            kept = sequence.num_committed if self._keeps_outputs else sequence.num_prompt
            if (leaf := self._leave_slot(sequence, kept)) is not None:
                self._remember(sequence.id, leaf)
        elif sequence.status is Status.PARKED:
            self.in_flight.unfollow(sequence)
        elif sequence.ticket:
            self.waiting.remove(sequence)
        if sequence.suspect:
            self.clear_suspect(sequence)
        sequence.status = Status.FINISHED
        del self.by_id[sequence.id]
        self.num_ahead -= sequence.sampling is None
        self.shares.leave(sequence.tenant)

    def hint(self, request: Hint) -> None:
        """About some ids, or what a request has left that has ended."""
        tree = self._tables.tree
        if request.id is None:
            tree.hint(request.token_ids, ascending(request.salts), request.next_use)
        elif (leaf := self.ended.get(request.id)) is not None:
            tree.hint_path(leaf, request.next_use, request.begin, request.end)

    def reprioritise(self, sequence: Sequence, objective: Objective, key: Key) -> None:
        sequence.own_order = new_order(sequence, objective, key)
        sequence.step_limit_ms = objective.step_limit_ms
        strictest = min((entry[2].order for entry in sequence.followers), default=sequence.own_order)
        self._reorder(sequence, min(sequence.own_order, _in_place_of(strictest, sequence)))
        if sequence.leader is not None:
            self._lend_order(sequence, sequence.leader)

    def mark_suspect(self, sequence: Sequence) -> None:
        if not sequence.suspect:
            sequence.suspect = True
            self.suspects.append(sequence)

    def clear_suspect(self, sequence: Sequence) -> None:
        sequence.suspect = False
        self.suspects.remove(sequence)

    def _remember(self, request_id: int, leaf: Node) -> None:
        self.ended[request_id] = leaf
        if len(self.ended) > MAX_ENDED:
            self.ended.popitem(last=False)

    def _leave_slot(self, sequence: Sequence, kept: int | None = None) -> Node | None:
        """Where in the tree its blocks end. `kept`: so many tokens stay in the cache; None: all that it has."""
        self._tables.publish(sequence, partial=True, up_to=kept)
        leaf = self._tables.leaf(sequence)
        self._tables.release(sequence)
        self._layout.moved()
        self.running.remove(sequence)
        sequence.life += 1
        sequence.status = Status.WAITING
        self._wake(self.in_flight.leave(sequence))
        return leaf

    def _lend_order(self, sequence: Sequence, leader: Sequence) -> None:
        """The owner of a block takes the strictest objective of those who wait for it."""
        if sequence.order < leader.order:
            self._reorder(leader, min(leader.order, _in_place_of(sequence.order, leader)))

    def _wake(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            self.waiting.push(sequence)

    def _reorder(self, sequence: Sequence, order: Order) -> None:
        if order == sequence.order:
            return
        if sequence.status is Status.RUNNING:
            self.running.reorder(sequence, order)
        else:
            sequence.order = order
            if sequence.status is Status.WAITING:
                self.waiting.moved(sequence)

    def check_invariants(self) -> None:
        """What must hold between any two calls."""
        self.waiting.check_invariants()
        self.shares.check_invariants([sequence.tenant for sequence in self.by_id.values()])
        self.in_flight.check_invariants()
        self.running.check_invariants()
        self._tables.check_invariants(self.running.in_order())
        waiting, running = set(self.waiting), set(self.running.in_order())
        for sequence in self.by_id.values():
            assert (sequence in running) == (sequence.status is Status.RUNNING)
            assert (sequence in waiting) == (sequence.status is Status.WAITING)
            self._check_sequence(sequence)
        assert len(waiting) + len(running) <= len(self.by_id)
        assert self.num_ahead == sum(sequence.sampling is None for sequence in self.by_id.values())
        assert all(sequence.suspect for sequence in self.suspects)

    def _check_sequence(self, sequence: Sequence) -> None:
        if sequence.status is Status.RUNNING:
            assert sequence.num_committed <= sequence.num_scheduled
            assert sequence.num_scheduled <= len(sequence.blocks) * self._size
            assert sequence.num_published * self._size <= sequence.num_committed
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
