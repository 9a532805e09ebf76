"""What is in the KV cache: a radix tree over token ids, one node per block.

    root -- 64 tokens --> n1 -- 64 tokens --> n2 -- 64 tokens --> n3
                                                \\-- 20 tokens (the tail of something that ended): a leaf

Responsible for: finding the longest cached prefix of some ids (at token granularity: the last node may match
in part), taking committed blocks, and choosing what is evicted. Edges carry salts (`engine.cache.edges`).

Invariants: a full node has exactly block_size tokens, a partial one fewer and no children; among siblings no
edge is a proper prefix of another (the longer one replaces it); a block is in at most one node; a sequence
that holds a node's block holds its parent's too, so every idle block can be evicted, leaves first.

Eviction order: released nodes first, then those nobody said anything about, then those with a next use;
within the first two the least recently used first, within the last the farthest use first. Never a pin. A
hint that was not met after twice its distance is believed no more. Leaves to others: who holds a block
(BlockTables).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from engine.cache.block_pool import BlockPool
from engine.cache.edges import Edge, Edges, edge
from engine.types import Salt

RELEASED, UNHINTED, WANTED = range(3)
"""Classes of eviction, in order."""


@dataclass(slots=True, eq=False)
class Node:
    """One block of cached ids. Changed by RadixTree alone."""

    parent: Node | None
    key: Edge
    block: int
    children: Edges[Node] = field(default_factory=Edges)
    rank: int = UNHINTED
    last_used: int = 0
    next_use: int = 0  # the clock's value, when rank is WANTED
    beyond: Node | None = None  # the child that the same hint was about
    ticket: int = 0  # of its entry in the heap; an entry with another ticket is void

    @property
    def num_tokens(self) -> int:
        return len(self.key) - 1


@dataclass(frozen=True, slots=True)
class Match:
    """The longest cached prefix: `blocks` full ones down to `node`, then `partial_tokens` of `partial`."""

    node: Node
    blocks: list[int]
    partial: Node | None = None
    partial_tokens: int = 0

    def num_tokens(self, block_size: int) -> int:
        return len(self.blocks) * block_size + self.partial_tokens


class RadixTree:
    """Owns the nodes and the heap of leaves that may be evicted. Its clock is the number of steps."""

    def __init__(self, pool: BlockPool, block_size: int) -> None:
        self.root = Node(parent=None, key=(b"",), block=0)
        self.num_evictions = 0
        self._pool = pool
        self._block_size = block_size
        self._nodes: dict[int, Node] = {}
        self._heap: list[tuple[int, int, int, Node]] = []
        self._due: list[tuple[int, int, Node]] = []
        self._clock = 0
        self._tickets = 0

    def __len__(self) -> int:
        return len(self._nodes)

    def tick(self) -> None:
        """A step has passed."""
        self._clock += 1

    def match(self, tokens: Sequence[int], salts: tuple[Salt, ...], limit: int) -> Match:
        """The longest cached prefix of tokens[:limit]. Holds nothing: hold the blocks before anything
        else."""
        node, blocks, at, size = self.root, list[int](), 0, self._block_size
        while at + size <= limit:
            child = node.children.get(edge(tokens, at, at + size, salts))
            if child is None:
                break
            node = child
            blocks.append(node.block)
            at += size
        if at < limit and node.children:
            closest = node.children.closest(edge(tokens, at, min(at + size, limit), salts))
            if closest is not None:
                return Match(node, blocks, *closest)
        return Match(node, blocks)

    def add(self, parent: Node, key: Edge, block: int) -> Node:
        """Take a committed block that is in use. Returns the node that has these tokens: a new one, or the
        one that had them before (with another block), or for a partial `key` one that has these and more."""
        existing = parent.children.get(key)
        if existing is not None:
            return existing
        before, after = parent.children.neighbours(key)
        if after is not None and after.key[: len(key)] == key:
            return after
        if before is not None and key[: len(before.key)] == before.key:
            if before.block == block:
                return self._lengthen(before, key)
            self._remove(before)
        node = Node(parent=parent, key=key, block=block, last_used=self._clock)
        parent.children.add(key, node)
        self._pool.remember(block)
        self._nodes[block] = node
        return node

    def touch(self, blocks: Sequence[int]) -> None:
        """This path, or its end, is being used: what was said about its next use has come true. So has what the
        same hint said of blocks beyond: that user has come, and did without them."""
        nodes = [self._nodes[block] for block in blocks]
        met = next((node for node in reversed(nodes) if node.rank == WANTED), None)
        for node in nodes:
            node.rank = UNHINTED
        if met is not None:
            self._disbelieve_beyond(met)

    def idle(self, block: int) -> None:
        """The last holder of a cached block has left it."""
        node = self._nodes[block]
        node.last_used = self._clock
        self._offer(node)

    def hint(self, tokens: Sequence[int], salts: tuple[Salt, ...], next_use: int | None) -> None:
        """`next_use` steps from now these ids are wanted again; None: never (what others extend stays)."""
        match = self.match(tokens, salts, len(tokens))
        if next_use is None and match.partial is not None and match.partial_tokens < match.partial.num_tokens:
            return  # it is extended inside of its last block
        self.hint_path(match.partial or match.node, next_use)

    def hint_path(self, leaf: Node, next_use: int | None, begin: int = 0, end: int | None = None) -> None:
        """The same for what lies on the path down to `leaf`, as far as it is still there, from position `begin`
        up to `end`. A block that begins before `begin` is not released, one that begins before `end` is wanted."""
        path = list(self._upwards(self._last_kept(leaf)))
        own_children, beyond = 0, None
        for depth, node in zip(range(len(path) - 1, -1, -1), path, strict=True):
            start = depth * self._block_size
            if next_use is not None:
                if start >= begin and (end is None or start < end):
                    self._want(node, next_use, beyond)
                    beyond = node
            elif start < begin or len(node.children) > own_children:
                break
            else:
                node.rank = RELEASED
            self._offer(node)
            own_children = 1

    def evict(self) -> bool:
        """Drop the leaf that is wanted least. False: there is none."""
        self._expire_hints()
        while self._heap:
            _, _, ticket, node = heapq.heappop(self._heap)
            if ticket == node.ticket and self._may_go(node):
                self._remove(node)
                self.num_evictions += 1
                return True
        return False

    def move(self, block: int) -> int:
        """Another block for the idle node of this one. There is a free one."""
        node = self._nodes.pop(block)
        assert node.parent is not None
        node.block = self._pool.spare(block, node.parent.block)
        self._pool.move(block, node.block)
        self._nodes[node.block] = node
        return node.block

    def _want(self, node: Node, next_use: int, beyond: Node | None) -> None:
        use = self._clock + next_use
        if node.rank != WANTED or use < node.next_use:
            node.rank, node.next_use, node.beyond = WANTED, use, beyond
            self._tickets += 1
            heapq.heappush(self._due, (use + next_use, self._tickets, node))

    def _disbelieve_beyond(self, met: Node) -> None:
        node = met.beyond
        while node is not None and node.rank == WANTED and node.next_use == met.next_use:
            node.rank = UNHINTED
            self._offer(node)
            node = node.beyond

    def _expire_hints(self) -> None:
        while self._due and self._due[0][0] < self._clock:
            node = heapq.heappop(self._due)[2]
            if node.rank == WANTED and node.next_use < self._clock:
                node.rank, node.last_used = UNHINTED, node.next_use
                self._offer(node)

    def _may_go(self, node: Node) -> bool:
        return not node.children and self._nodes.get(node.block) is node and self._pool.is_idle(node.block)

    def _offer(self, node: Node) -> None:
        """Put a node on the heap if it may be evicted now."""
        if not self._may_go(node):
            return
        self._tickets += 1
        node.ticket = self._tickets
        when = -node.next_use if node.rank == WANTED else node.last_used
        heapq.heappush(self._heap, (node.rank, when, node.ticket, node))
        if len(self._heap) > 64 + 4 * len(self._nodes):
            self._heap = [
                entry for entry in self._heap if entry[2] == entry[3].ticket and self._may_go(entry[3])
            ]
            heapq.heapify(self._heap)

    def _lengthen(self, node: Node, key: Edge) -> Node:
        assert node.parent is not None
        node.parent.children.remove(node.key)
        node.key = key
        node.parent.children.add(key, node)
        return node

    def _remove(self, node: Node) -> None:
        assert node.parent is not None
        node.parent.children.remove(node.key)
        del self._nodes[node.block]
        self._pool.forget(node.block)
        if node.parent is not self.root:
            self._offer(node.parent)

    def _last_kept(self, node: Node) -> Node:
        """`node`, or what is left of the path to it: leaves go first."""
        while node.parent is not None and self._nodes.get(node.block) is not node:
            node = node.parent
        return node

    def _upwards(self, node: Node) -> Iterator[Node]:
        while node.parent is not None:
            yield node
            node = node.parent

    def check_invariants(self) -> None:
        seen: set[int] = set()
        stack = [self.root]
        offered = {id(entry[3]) for entry in self._heap if entry[2] == entry[3].ticket}
        while stack:
            node = stack.pop()
            if node is not self.root:
                self._check_node(node, offered)
                assert node.block not in seen, f"block {node.block} is in two nodes"
                seen.add(node.block)
            keys = list(node.children)
            assert keys == sorted(keys)
            for first, second in pairwise(keys):
                assert second[: len(first)] != first, "an edge is a prefix of its sibling"
            stack.extend(node.children.values())
        assert seen == set(self._nodes)

    def _check_node(self, node: Node, offered: set[int]) -> None:
        assert node.parent is not None
        assert self._nodes[node.block] is node
        assert node.parent.children.get(node.key) is node
        assert 1 <= node.num_tokens <= self._block_size
        assert not node.children or node.num_tokens == self._block_size
        refs = self._pool.refs(node.block)
        assert refs > 0 or self._pool.is_idle(node.block)
        if refs and node.parent is not self.root:
            assert self._pool.refs(node.parent.block) > 0, "a held node has an idle parent"
        if not refs and not node.children:
            assert id(node) in offered, "an idle leaf cannot be evicted"
