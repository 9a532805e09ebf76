"""Sequences have their chunks in extents, and what is cached moves out of the way with nothing lost."""

from __future__ import annotations

from engine.cache.block_tables import BlockTables
from engine.sequence import Sequence, from_generate
from engine.types import Generate, SamplingParams

SIZE = 4
EXTENT = 4


def started(tables: BlockTables, tokens: list[int]) -> Sequence:
    """A sequence that holds all of its tokens, published."""
    request = Generate(1, tuple(tokens), SamplingParams(max_tokens=1, seed=0))
    sequence = from_generate(request, arrival=1, max_model_len=10**6)
    assert tables.take(sequence, tables.match(sequence), partial=False)
    assert tables.grow(sequence, len(tokens)) >= len(tokens)
    sequence.num_committed = len(tokens)
    tables.publish(sequence, partial=True)
    return sequence


def prompt(seed: int, length: int) -> list[int]:
    return [seed * 1000 + i for i in range(length)]


def test_a_cached_chunk_moves_as_a_whole_where_an_extent_is_free() -> None:
    tables = BlockTables(40, SIZE, caching=True, extent=EXTENT)
    ended = started(tables, prompt(1, 16))
    blocks = list(ended.blocks)
    tables.release(ended)
    running = started(tables, prompt(2, 16))
    assert running.blocks == blocks == [4, 5, 6, 7]
    moved = [36, 37, 38, 39]
    assert tables.take_moves() == [(a, b, SIZE) for a, b in zip(blocks, moved, strict=True)]
    assert tables.take_moves() == []
    assert tables.tree.match(prompt(1, 16), (), 16).blocks == moved
    tables.check_invariants([running])


def test_moving_evicts_nothing_that_would_have_stayed() -> None:
    """A full pool: as many blocks go as are wanted, the least recently used first."""
    tables = BlockTables(17, SIZE, caching=True, extent=EXTENT)
    for seed in range(4):
        tables.release(started(tables, prompt(seed, 16)))
        tables.tree.tick()
    assert tables.pool.num_free == tables.tree.num_evictions == 0
    running = started(tables, prompt(9, 8))
    assert tables.tree.num_evictions == 2
    assert tables.tree.match(prompt(0, 16), (), 16).num_tokens(SIZE) == 8
    for seed in range(1, 4):
        assert tables.tree.match(prompt(seed, 16), (), 16).num_tokens(SIZE) == 16
    tables.check_invariants([running])


def test_sequences_that_come_and_go_stay_at_the_bottom_of_a_full_pool() -> None:
    tables = BlockTables(129, SIZE, caching=True, extent=EXTENT)
    running: list[Sequence] = []
    for seed in range(200):
        running.append(started(tables, prompt(seed, 10)))
        if len(running) == 4:
            tables.release(running.pop(seed % 4))
        assert all(EXTENT <= block < 6 * EXTENT for sequence in running for block in sequence.blocks)
        assert all(sequence.blocks[0] % EXTENT == 0 for sequence in running)
    assert tables.pool.num_free < 8
    tables.check_invariants(running)
