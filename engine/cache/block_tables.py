"""Which sequence holds which blocks: the one place where sequences, BlockPool and RadixTree meet.

Responsible for: taking a cached prefix, growing a block table, publishing committed tokens in the tree,
letting go. Invariant: a sequence holds each block of its table once, and its first `num_published` blocks are
exactly the tree's path to `node`; where the tree had the same tokens in another block, the sequence moved to
that one.

A cached prefix may end inside a block. Then the sequence gets a block of its own, into which the runner
copies the tokens that match (`Sequence.copy`); the source stays held until that step has been scheduled.

Where blocks have their places (`BlockPool`), a cached block that is in the way moves: at once in pool and tree, and
in memory before the next step, in the order of `take_moves`.
"""

from __future__ import annotations

from engine.cache.block_pool import BlockPool
from engine.cache.edges import edge
from engine.cache.radix_tree import Match, Node, RadixTree
from engine.sequence import Sequence


class BlockTables:
    """Owns the pool and the tree. `caching` off: nothing is matched and nothing kept. extent: as the pool's."""

    def __init__(self, num_blocks: int, block_size: int, *, caching: bool, extent: int | None = None) -> None:
        self.pool = BlockPool(num_blocks, extent)
        self.tree = RadixTree(self.pool, block_size)
        self._size = block_size
        self._caching = caching
        self._extent = extent
        self._moves: list[tuple[int, int, int]] = []

    def match(self, sequence: Sequence) -> Match:
        if not self._caching:
            return Match(self.tree.root, [])
        return self.tree.match(sequence.tokens, sequence.salts, sequence.reusable)

    def take(self, sequence: Sequence, match: Match, *, partial: bool) -> bool:
        """Hold a match's blocks, and one more for its partial part if that is wanted. False: no block for
        it."""
        for block in match.blocks:
            self.pool.hold(block)
        self.tree.touch(match.blocks)
        sequence.blocks = list(match.blocks)
        sequence.node, sequence.num_published = match.node, len(match.blocks)
        if match.partial is None or not partial:
            return True
        source = match.partial.block
        self.pool.hold(source)
        self.tree.touch((source,))
        target = self._allocate(sequence)
        if target is None:
            self._release_block(source)
            return False
        sequence.blocks.append(target)
        sequence.copy = (source, target, match.partial_tokens)
        return True

    def grow(self, sequence: Sequence, num_tokens: int, keep: int = 0) -> int:
        """Blocks for the first `num_tokens` tokens, as far as the pool has them beyond `keep`. Returns for
        how many tokens there is room now."""
        missing = -(-num_tokens // self._size) - len(sequence.blocks)
        granted = min(missing, self.pool.num_available - keep)
        # Blocks are evicted from the end of a path up: all first, so that they are taken in ascending order.
        while self.pool.num_free < granted and self.tree.evict():
            pass
        for _ in range(granted):
            block = self._allocate(sequence)
            if block is None:
                break
            sequence.blocks.append(block)
            sequence.blocks_changed = True
        return len(sequence.blocks) * self._size

    def publish(self, sequence: Sequence, *, partial: bool = False, up_to: int | None = None) -> bool:
        """Put the committed full blocks in the tree, and if `partial` the begun one too; of the first `up_to`
        tokens only, where that is given. True: the sequence moved to blocks that the tree had already."""
        if not self._caching:
            return False
        assert sequence.node is not None
        size, moved, tokens = self._size, False, sequence.tokens
        committed = sequence.num_committed if up_to is None else min(sequence.num_committed, up_to)
        at = sequence.num_published * size
        while at + size <= committed:
            index = sequence.num_published
            key = edge(tokens, at, at + size, sequence.salts)
            node = self.tree.add(sequence.node, key, sequence.blocks[index])
            if node.block != sequence.blocks[index]:
                self.pool.hold(node.block)
                self._release_block(sequence.blocks[index])
                sequence.blocks[index] = node.block
                sequence.blocks_changed = moved = True
            sequence.node = node
            sequence.num_published += 1
            at += size
        if partial and at < committed:
            key = edge(tokens, at, committed, sequence.salts)
            self.tree.add(sequence.node, key, sequence.blocks[sequence.num_published])
        return moved

    def leaf(self, sequence: Sequence) -> Node | None:
        """The last node of what a sequence has published; None: nothing."""
        at, node = sequence.num_published * self._size, sequence.node
        if node is None:
            return None
        rest = edge(sequence.tokens, at, sequence.num_committed, sequence.salts)
        return node.children.get(rest) or (node if node is not self.tree.root else None)

    def copied(self, sequence: Sequence) -> None:
        """The step that copies has been scheduled (or will never be): let go of the source."""
        if sequence.copy is not None:
            source, sequence.copy = sequence.copy[0], None
            self._release_block(source)

    def release(self, sequence: Sequence) -> None:
        """Let go of everything, the end first: a leaf is idle before its parent."""
        self.copied(sequence)
        for block in reversed(sequence.blocks):
            self._release_block(block)
        sequence.blocks = []
        sequence.node, sequence.num_published = None, 0

    def take_moves(self) -> list[tuple[int, int, int]]:
        """(source block, target block, tokens) of what has moved; to be copied before the next step, and in this
        order."""
        moves, self._moves = self._moves, []
        return moves

    def _allocate(self, sequence: Sequence) -> int | None:
        """The next block of its table, which is in its place where that can be."""
        while not self.pool.num_free:
            if not self.tree.evict():
                return None
        begins_chunk = self._extent is None or len(sequence.blocks) % self._extent == 0
        place = self.pool.place(None if begins_chunk else sequence.blocks[-1])
        if place is not None and self.pool.is_idle(place):
            self._moves.append((place, self.tree.move(place), self._size))
        return self.pool.allocate(place)

    def _release_block(self, block: int) -> None:
        if self.pool.release(block):
            self.tree.idle(block)

    def check_invariants(self, holders: list[Sequence]) -> None:
        """`holders` are all sequences that may hold a block."""
        self.pool.check_invariants()
        self.tree.check_invariants()
        refs = [0] * self.pool.num_blocks
        for sequence in holders:
            assert len(set(sequence.blocks)) == len(sequence.blocks), "a block is twice in a table"
            for block in sequence.blocks:
                refs[block] += 1
            if sequence.copy is not None:
                refs[sequence.copy[0]] += 1
            self._check_path(sequence)
        for block, count in enumerate(refs):
            assert count == self.pool.refs(block), (
                f"block {block} has {self.pool.refs(block)} refs, not {count}"
            )

    def _check_path(self, sequence: Sequence) -> None:
        node, path = sequence.node, list[int]()
        while node is not None and node.parent is not None:
            path.append(node.block)
            node = node.parent
        assert path[::-1] == sequence.blocks[: sequence.num_published]
