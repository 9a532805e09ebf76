"""Which KV blocks are free, in use, or kept for later hits, and where a sequence's next one belongs.

Responsible for: reference counts and the free blocks. A block is in exactly one state:

    free --allocate--> in use (refs > 0) --last release--> idle (refs 0) if the radix tree has it
      ^                       ^            \\-last release--> quarantine --end_step--> free   if not
      |                       +---- hold <--- idle
      +---- forget (the tree lets it go) <--- idle

Quarantine is what lets a step be scheduled before the previous one has ended: a block whose last holder left
while step n+1 is in flight may still be written by it, and is free again when step n+1 has ended. With no
step in flight a released block is free at once.

On a CPU attention reads consecutive blocks in place, and others only after a copy. There the pool is cut into
aligned extents, each of as many blocks as a chunk of keys has:

    extent         0                1                2
    block     [ - 1 2 3 ]      [ 4 5 6 7 ]     [ 8 9 10 11 ]
                scratch         a chunk of A    a chunk of B, whose next block is 10

A chunk begins in the lowest extent that nobody holds a block of, and goes on block after block; so the chunks of
those that run lie at constant distances at the bottom. Idle blocks are not in the way: what is in them moves to
free ones (`spare`, `move`), at the top. A place therefore costs no memory, and does not change what is evicted.

Invariants: block 0 is scratch and never handed out; free + quarantined + idle + in use = num_blocks - 1.
Leaves to others: what is in a block (RadixTree); who holds it, and the copies that moves need (BlockTables).
"""

from __future__ import annotations

from collections import deque


class BlockPool:
    """Owns the state of every block. `num_blocks` includes the scratch block 0. extent: blocks of one; None: one
    place is as good as another, and no block moves.

    Sets are integers with a bit for each block or extent: the lowest and the highest are at hand.
    """

    def __init__(self, num_blocks: int, extent: int | None = None) -> None:
        if num_blocks < 2:
            raise ValueError(f"a pool needs a block beside scratch, not {num_blocks}")
        self.num_blocks = num_blocks
        self.num_idle = 0
        self.num_free = 0
        self._refs = [0] * num_blocks
        self._cached = bytearray(num_blocks)
        self._released_at = [0] * num_blocks
        self._quarantine: deque[tuple[int, int]] = deque()
        self._begun = 0
        self._ended = 0
        self._extent = extent
        self._width = extent or num_blocks
        whole = num_blocks // self._width  # neither the one of scratch is, nor what is left over at the end
        self._unheld = (1 << whole) - 2 if whole else 0
        self._unused = 0  # those of them that are free altogether
        self._held_in = [0] * (whole + 1)
        self._free_in = [0] * (whole + 1)
        self._free = 0
        for block in range(1, num_blocks):
            self._set_free(block)

    @property
    def num_quarantined(self) -> int:
        return len(self._quarantine)

    @property
    def num_available(self) -> int:
        """Free blocks, and idle ones, which may be evicted."""
        return self.num_free + self.num_idle

    def refs(self, block: int) -> int:
        return self._refs[block]

    def is_idle(self, block: int) -> bool:
        return self._refs[block] == 0 and bool(self._cached[block])

    def place(self, previous: int | None) -> int | None:
        """Where the block after `previous` of a chunk belongs, or (None) the first one. That is free or idle; None:
        any other will do as well."""
        if self._extent is None:
            return None
        if previous is None:
            block = _lowest(self._unheld) * self._width if self._unheld else 0
        else:
            block = (previous + 1) % self.num_blocks
            if block % self._width == 0:
                return None
        settled = self._released_at[block] <= self._ended
        return block if self._is_free(block) or (self.is_idle(block) and settled) else None

    def spare(self, block: int, parent: int) -> int:
        """A free block for what is in `block`: behind that of its `parent` in the tree, where possible, and apart
        from the extents that are begun next."""
        if parent and (parent + 1) % self._width and self._is_free(parent + 1):
            return parent + 1
        if block % self._width == 0 and self._unused:
            return _highest(self._unused) * self._width
        return _highest(self._free)

    def allocate(self, place: int | None = None) -> int | None:
        """A free block with one holder: `place`, if that is given. None: there is none."""
        if not self._free:
            return None
        if place is None:
            place = _lowest(self._free) if self._extent is None else _highest(self._free)
        elif not self._is_free(place):
            raise ValueError(f"block {place} is not free")
        self._clear_free(place)
        self._begin_use(place)
        return place

    def move(self, source: int, target: int) -> None:
        """What is in the idle block `source` is in the free block `target` from now on, and `source` is free."""
        if not self.is_idle(source):
            raise ValueError(f"block {source} is not idle")
        if not self._is_free(target):
            raise ValueError(f"block {target} is not free")
        self._clear_free(target)
        self._cached[source], self._cached[target] = 0, 1
        self._released_at[target] = self._released_at[source]
        self._set_free(source)

    def hold(self, block: int) -> None:
        """One more holder of a block that is in use or idle."""
        if self._refs[block]:
            self._refs[block] += 1
            return
        if not self._cached[block]:
            raise ValueError(f"block {block} is free")
        self.num_idle -= 1
        self._begin_use(block)

    def release(self, block: int) -> bool:
        """One holder less. True: the block is idle now, and may be evicted."""
        if self._refs[block] == 0:
            raise ValueError(f"block {block} has no holder")
        self._refs[block] -= 1
        if self._refs[block]:
            return False
        self._end_use(block)
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
            self._set_free(self._quarantine.popleft()[1])

    def _give_back(self, block: int) -> None:
        if self._released_at[block] > self._ended:
            self._quarantine.append((self._released_at[block], block))
        else:
            self._set_free(block)

    def _is_free(self, block: int) -> bool:
        return bool(self._free >> block & 1)

    def _set_free(self, block: int) -> None:
        extent = block // self._width
        self._free |= 1 << block
        self.num_free += 1
        self._free_in[extent] += 1
        if self._free_in[extent] == self._width:
            self._unused |= 1 << extent

    def _clear_free(self, block: int) -> None:
        extent = block // self._width
        self._free &= ~(1 << block)
        self.num_free -= 1
        self._free_in[extent] -= 1
        self._unused &= ~(1 << extent)

    def _begin_use(self, block: int) -> None:
        extent = block // self._width
        self._refs[block] = 1
        self._held_in[extent] += 1
        self._unheld &= ~(1 << extent)

    def _end_use(self, block: int) -> None:
        extent = block // self._width
        self._held_in[extent] -= 1
        if not self._held_in[extent] and self._is_whole(extent):
            self._unheld |= 1 << extent

    def _is_whole(self, extent: int) -> bool:
        return 0 < extent < self.num_blocks // self._width

    def check_invariants(self) -> None:
        free = {block for block in range(self.num_blocks) if self._is_free(block)}
        quarantined = {block for _, block in self._quarantine}
        assert len(free) == self.num_free
        assert self._free < 1 << self.num_blocks
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
        self._check_extents(free)

    def _check_extents(self, free: set[int]) -> None:
        for extent in range(self.num_blocks // self._width):
            blocks = range(extent * self._width, (extent + 1) * self._width)
            held, whole = any(self._refs[block] for block in blocks), self._is_whole(extent)
            assert bool(self._unheld >> extent & 1) == (whole and not held)
            assert bool(self._unused >> extent & 1) == (whole and free.issuperset(blocks))


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1


def _highest(bits: int) -> int:
    return bits.bit_length() - 1
