"""When requests come: seeded Poisson arrivals, and rates as a share of what a server can take. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import accumulate

Point = tuple[float, float]
"""(rate, latency)."""


def poisson(rate: float, count: int, seed: int | str) -> list[float]:
    """Seconds from the start. The same seed gives the same pattern at every rate, only faster or slower."""
    rng = random.Random(f"arrivals {seed}")
    return [unit / rate for unit in accumulate(rng.expovariate(1.0) for _ in range(count))]


def evenly(count: int, span_s: float) -> list[float]:
    """Within the span, with the same gap before each."""
    return [span_s * (index + 1) / (count + 1) for index in range(count)]


def crossing(points: Sequence[Point], limit: float) -> float:
    """The rate at which latency meets the limit, by interpolation of logarithms between the last point that keeps
    it and the first that does not. NaN when no point keeps it; the highest rate when all do."""
    ordered = sorted(points)
    below = [point for point in ordered if point[1] <= limit]
    if not below:
        return math.nan
    above = [point for point in ordered if point[0] > below[-1][0]]
    if not above:
        return below[-1][0]
    (r0, l0), (r1, l1) = below[-1], above[0]
    share = (math.log(limit) - math.log(l0)) / (math.log(l1) - math.log(l0))
    return math.exp(math.log(r0) + share * (math.log(r1) - math.log(r0)))


def find_rate(
    latency: Callable[[float], float], limit: float, start: float, *, halvings: int = 3, doublings: int = 8
) -> tuple[float, list[Point]]:
    """The highest rate that keeps the limit, and all points that were measured: by doubling (or halving) from
    `start` until it is bracketed, then halving the bracket's logarithm."""
    points = [(start, latency(start))]
    factor = 2.0 if points[0][1] <= limit else 0.5
    for _ in range(doublings):
        rate = points[-1][0] * factor
        points.append((rate, latency(rate)))
        if (points[-1][1] <= limit) != (factor == 2.0):
            break
    low = max((rate for rate, ms in points if ms <= limit), default=math.nan)
    high = min((rate for rate, ms in points if ms > limit), default=math.nan)
    for _ in range(halvings if low < high else 0):
        middle = math.sqrt(low * high)
        points.append((middle, latency(middle)))
        low, high = (middle, high) if points[-1][1] <= limit else (low, middle)
    return crossing(points, limit), points
