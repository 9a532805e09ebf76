"""The committed table of kernel configurations: nothing is tuned at run time.

Attention is keyed by (head_dim, query heads per KV head, block size, element size): the group decides which M
tiles are worth having, head_dim and element size what fits into 227 KB of shared memory, registers and the
pipeline, the block size the width of a key block. Under 64 rows an M tile runs on mma.sync, from 64 on wgmma.
`tests/ops/test_kernels_compile.py` compiles it for sm_90 and fails on a spill. Torch- and Triton-free.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ops.kernels.shapes import power_of_two

M_TILES = (16, 32, 64, 128)
DETERMINISTIC_M = 64
"""With one M tile every row goes through the same instructions, however many rows lie beside it."""


@dataclass(frozen=True, slots=True)
class AttentionConfig:
    """block_m: rows x query heads of one KV head that a tile holds. programs: persistent ones per SM."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    programs: int


@dataclass(frozen=True, slots=True)
class MatmulConfig:
    """One tile shape for all M: a split or a shape that depends on M would change a row's sums."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


# Pages are read before keys, so the loop has two levels of loads: 5 or 6 stages keep two key blocks in flight, 3
# one (and a second one where wgmma still reads it).
_HALF = {  # (BLOCK_D, M tile) for 2-byte elements: block_n, warps, stages, programs
    (32, 16): (64, 4, 5, 4),
    (32, 32): (64, 4, 3, 4),
    (32, 64): (64, 4, 3, 3),
    (32, 128): (64, 8, 3, 1),
    (64, 16): (64, 4, 6, 4),
    (64, 32): (64, 4, 5, 3),
    (64, 64): (64, 4, 3, 2),
    (64, 128): (64, 8, 3, 1),
    (128, 16): (32, 4, 5, 3),
    (128, 32): (32, 4, 5, 3),
    (128, 64): (64, 4, 3, 2),
    (128, 128): (64, 8, 3, 1),
    (256, 16): (32, 4, 3, 2),
    (256, 32): (64, 8, 3, 1),
    (256, 64): (32, 8, 3, 1),
    (256, 128): (32, 8, 3, 1),
}
_MATMUL_HALF = MatmulConfig(64, 128, 64, 4, 4)
_MATMUL_HALF_ODD = MatmulConfig(64, 64, 64, 8, 4)  # an address for each element: half the elements a thread
_MATMUL_FLOAT = MatmulConfig(32, 64, 32, 4, 3)


@cache  # asked for by every layer
def attention_configs(
    head_dim: int, group: int, block_size: int, element_size: int, deterministic: bool
) -> tuple[AttentionConfig, ...]:
    """The M tiles to choose from for a step's tiles, ascending. Raises ValueError for what no tile holds."""
    if group > M_TILES[-1]:
        raise ValueError(f"{group} query heads per KV head: at most {M_TILES[-1]} fit a tile")
    width = max(32, power_of_two(head_dim))
    if width > 256:
        raise ValueError(f"head_dim {head_dim}: at most 256 is supported")
    wanted = [m for m in M_TILES if m >= group]
    if deterministic:
        wanted = [max(DETERMINISTIC_M, wanted[0])]
    return tuple(_attention(width, m, block_size, element_size) for m in wanted)


def matmul_config(element_size: int, outputs: int, inputs: int) -> MatmulConfig:
    """For 2-byte elements the tensor cores' tile, smaller where rows are not aligned to 16 elements; for fp32 one
    that fits FFMA."""
    if element_size == 4:
        return _MATMUL_FLOAT
    return _MATMUL_HALF_ODD if outputs % 16 or inputs % 16 else _MATMUL_HALF


def _attention(width: int, block_m: int, block_size: int, element_size: int) -> AttentionConfig:
    block_n, warps, stages, programs = _HALF[width, block_m]
    if element_size == 4:  # FFMA: no matrix unit to feed, twice the bytes
        block_n, warps, stages, programs = 16, 8, 2, 1
    if 16 < block_size < block_n and block_n % block_size:
        block_n = 16
    return AttentionConfig(block_m, block_n, warps, stages, programs)
