"""Which KV blocks are free, in use, or kept for later hits.

Responsible for: reference counts and the free list. A block is in exactly one state:

    free --allocate--> in use (refs > 0) --last release--> idle (refs 0) if the radix tree has it
      ^                       ^            \\-last release--> quarantine --end_step--> free   if not
      |                       +---- hold <--- idle
      +---- forget (the tree lets it go) <--- idle

Quarantine is what lets a step be scheduled before the previous one has ended: a block whose last holder left
while step n+1 is in flight may still be written by it, and is free again when step n+1 has ended. With no
step in flight a released block is free at once.

Invariants: block 0 is scratch and never handed out; free + quarantined + idle + in use = num_blocks - 1.
Leaves to others: what is in a block (RadixTree), and who holds it (BlockTables).
"""

from __future__ import annotations

import heapq
from collections import deque


class BlockPool:
    """Owns the state of every block. `num_blocks` includes the scratch block 0."""

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 2:
            raise ValueError(f"a pool needs a block beside scratch, not {num_blocks}")
        self.num_blocks = num_blocks
        self.num_idle = 0
        self._refs = [0] * num_blocks
        self._cached = bytearray(num_blocks)
        self._released_at = [0] * num_blocks
        # A heap, so that blocks taken together tend to be neighbours: attention reads runs of pages as views.
        self._free = list(range(1, num_blocks))
        self._quarantine: deque[tuple[int, int]] = deque()
        self._begun = 0
        self._ended = 0

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_quarantined(self) -> int:
        return len(self._quarantine)

    @property
    def num_available(self) -> int:
        """Free blocks, and idle ones, which may be evicted."""
        return len(self._free) + self.num_idle

    def refs(self, block: int) -> int:
        return self._refs[block]

    def is_idle(self, block: int) -> bool:
        return self._refs[block] == 0 and bool(self._cached[block])

    def allocate(self) -> int | None:
        """A free block with one holder, or None."""
        if not self._free:
            return None
        block = heapq.heappop(self._free)
        self._refs[block] = 1
        return block

    def hold(self, block: int) -> None:
        """One more holder of a block that is in use or idle."""
        if self._refs[block] == 0:
            if not self._cached[block]:
                raise ValueError(f"block {block} is free")
            self.num_idle -= 1
        self._refs[block] += 1

    def release(self, block: int) -> bool:
        """One holder less. True: the block is idle now, and may be evicted."""
        if self._refs[block] == 0:
            raise ValueError(f"block {block} has no holder")
        self._refs[block] -= 1
        if self._refs[block]:
            return False
        self._released_at[block] = self._begun
        if self._cached[block]:
            self.num_idle += 1
            return True
        self._give_back(block)
        return False

    def remember(self, block: int) -> None:
        """The tree takes a block that is in use: when its last holder leaves it becomes idle, not free."""
        if self._refs[block] == 0:
            raise ValueError(f"block {block} is not in use")
        self._cached[block] = 1

    def forget(self, block: int) -> None:
        """The tree lets a block go."""
        if not self._cached[block]:
            raise ValueError(f"block {block} is not cached")
        self._cached[block] = 0
        if self._refs[block] == 0:
            self.num_idle -= 1
            self._give_back(block)

    def begin_step(self, step_id: int) -> None:
        """From here on the step may read and write the blocks of its sequences."""
        self._begun = step_id

    def end_step(self, step_id: int) -> None:
        self._ended = step_id
        while self._quarantine and self._quarantine[0][0] <= step_id:
            heapq.heappush(self._free, self._quarantine.popleft()[1])

    def _give_back(self, block: int) -> None:
        if self._released_at[block] > self._ended:
            self._quarantine.append((self._released_at[block], block))
        else:
            heapq.heappush(self._free, block)

    def check_invariants(self) -> None:
        free, quarantined = set(self._free), {block for _, block in self._quarantine}
        assert len(free) == len(self._free), "a block is free twice"
        assert len(quarantined) == len(self._quarantine), "a block is quarantined twice"
        assert not free & quarantined
        assert 0 not in free | quarantined
        assert self._refs[0] == 0, "scratch was handed out"
        assert not self._cached[0], "scratch was handed out"
        idle = in_use = 0
        for block in range(1, self.num_blocks):
            idle += self.is_idle(block)
            in_use += self._refs[block] > 0
            assert self._refs[block] >= 0
            loose = block in free or block in quarantined
            assert loose == (self._refs[block] == 0 and not self._cached[block]), f"block {block} is lost"
        assert idle == self.num_idle
        assert len(free) + len(quarantined) + idle + in_use == self.num_blocks - 1
