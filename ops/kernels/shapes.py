"""Block shapes that follow from a tensor's shape alone. Torch- and Triton-free."""

from __future__ import annotations


def power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size`, and at least 1."""
    return 1 << max(0, size - 1).bit_length()


def row_warps(width: int) -> int:
    """Warps for a program that holds one row of `width` elements: 16 bytes a thread and load, 4 to 16 warps."""
    return min(16, max(4, power_of_two(width) // 512))
