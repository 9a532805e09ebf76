"""Who computes what right now, so that nobody computes it twice.

Responsible for: finding, for a sequence that wants to start, a running one (its leader) that is about to
compute the block it misses next, and for how many tokens it pays to wait. A leader is registered under the
tree's node of its last published block, with the edge of its next one: a follower that matched the tree down
to the same node sees whether its own next edge is that one.

Invariants: a leader is running and has prompt left to compute; each follower has one leader and is woken when
the leader has committed the tokens it waits for, or leaves for whatever reason. So a follower waits only for
progress: a leader runs in the strictest order of its followers (BatchScheduler sees to it), and would be
given tokens and blocks wherever the follower would. Leaves to others: what a woken sequence does next.
"""

from __future__ import annotations

import heapq

from engine.cache.edges import Edges, common_salted_length, edge
from engine.cache.radix_tree import Match, Node
from engine.sequence import Sequence, Status

MIN_WAIT = 16
"""Tokens of a block in common below which waiting a step costs more than computing them."""


class InFlight:
    """Owns the registrations, and the `pending`, `leader` and `followers` of every sequence."""

    def __init__(self, block_size: int) -> None:
        self._size = block_size
        self._pending: dict[Node, Edges[Sequence]] = {}

    def register(self, sequence: Sequence) -> None:
        """A running sequence has begun, or published a block: this is what it computes next."""
        self._unregister(sequence)
        begin = sequence.num_published * self._size
        if begin >= sequence.prefill_end or sequence.node is None:
            return
        end = min(begin + self._size, sequence.prefill_end)
        key = edge(sequence.tokens, begin, end, sequence.salts)
        edges = self._pending.setdefault(sequence.node, Edges())
        if edges.get(key) is None:  # else somebody else computes it too, and is found
            edges.add(key, sequence)
            sequence.pending = (sequence.node, key)

    def find(self, sequence: Sequence, match: Match) -> tuple[Sequence, int] | None:
        """(leader, how many tokens it must have committed) if waiting pays."""
        edges = self._pending.get(match.node)
        if edges is None:
            return None
        begin = len(match.blocks) * self._size
        end = min(begin + self._size, len(sequence.tokens))
        closest = edges.closest(edge(sequence.tokens, begin, end, sequence.salts))
        if closest is None:
            return None
        leader = closest[0]
        common = common_salted_length(
            sequence.tokens, sequence.salts, leader.tokens, leader.salts, leader.prefill_end
        )
        target = self._target(sequence, leader, common)
        # Of what is waited for only the common part is of use: else those who share a prefix that ends inside
        # of a block would wait for each other, one by one.
        gained = min(common, target, sequence.reusable) - match.num_tokens(self._size)
        return (leader, target) if gained > 0 and target > leader.num_committed else None

    def _target(self, sequence: Sequence, leader: Sequence, common: int) -> int:
        """The leader publishes whole blocks, and the last one of its prompt as far as it goes."""
        rest = common % self._size
        if rest >= MIN_WAIT or common == len(sequence.tokens):
            return min(common - rest + self._size, leader.prefill_end) if rest else common
        return common - rest

    def follow(self, sequence: Sequence, leader: Sequence, target: int) -> None:
        sequence.status = Status.PARKED
        sequence.leader = leader
        heapq.heappush(leader.followers, (target, sequence.arrival, sequence))

    def unfollow(self, sequence: Sequence) -> None:
        if sequence.leader is not None:
            sequence.leader.followers = [
                entry for entry in sequence.leader.followers if entry[2] is not sequence
            ]
            heapq.heapify(sequence.leader.followers)
            sequence.leader = None

    def progress(self, leader: Sequence) -> list[Sequence]:
        """The leader has committed more: those who have what they waited for."""
        woken = []
        while leader.followers and leader.followers[0][0] <= leader.num_committed:
            woken.append(heapq.heappop(leader.followers)[2])
            woken[-1].leader = None
        return woken

    def leave(self, leader: Sequence) -> list[Sequence]:
        """It computes no more: all who waited for it."""
        self._unregister(leader)
        woken = [entry[2] for entry in sorted(leader.followers, key=lambda entry: entry[1])]
        leader.followers = []
        for sequence in woken:
            sequence.leader = None
        return woken

    def _unregister(self, sequence: Sequence) -> None:
        if sequence.pending is not None:
            node, key = sequence.pending
            edges = self._pending[node]
            edges.remove(key)
            if not edges:
                del self._pending[node]
            sequence.pending = None

    def check_invariants(self) -> None:
        for node, edges in self._pending.items():
            for key in edges:
                leader = edges.get(key)
                assert leader is not None
                assert leader.pending == (node, key)
                assert leader.status is Status.RUNNING
                assert leader.node is node
