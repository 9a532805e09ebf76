"""How many threads a step of so many rows is given.

Small steps run best on one thread: waking a sleeping worker takes longer than the work (with
OMP_WAIT_POLICY=PASSIVE about 50 us for each parallel region). By the contract of batch invariance the number
changes no result, so it may be chosen by timing, and for every step anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

logger = logging.getLogger(__name__)

PROBES = ((1, 4), (16, 48), (128, 1 << 30))
"""(rows that are timed, up to how many rows the finding is used)."""

_BUDGET_S = 0.12
_REPEATS = 5
_WORTH = 0.9


@dataclass(frozen=True, slots=True)
class ThreadChoice:
    """choices: (up to this many rows, threads), ascending; most: the threads of steps with more rows."""

    choices: tuple[tuple[int, int], ...]
    most: int

    def of(self, rows: int) -> int:
        """The number of threads for a step of `rows` rows."""
        return next((threads for limit, threads in self.choices if rows <= limit), self.most)


def use_torch_threads(threads: int) -> None:
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)


def fixed_threads(threads: int) -> ThreadChoice:
    """The same number for every step."""
    return ThreadChoice((), threads)


def time_threads(most: int, step: Callable[[int], None], use: Callable[[int], None]) -> ThreadChoice:
    """Choose by timing `step(rows)` at PROBES with 1, 2, 4, ... `most` threads, which `use` sets; in about 0.15 s.

    More threads must pay: each doubling has to take a tenth off. A large model does not get through in time, and
    what is not timed uses all threads.
    """
    candidates = sorted({most, *(2**power for power in range(most.bit_length()) if 2**power < most)})
    deadline = time.perf_counter() + _BUDGET_S
    choices: list[tuple[int, int]] = []
    for rows, until in PROBES:
        times = [(threads, _typical_time(rows, threads, step, use, deadline)) for threads in candidates]
        if time.perf_counter() > deadline:
            break
        best, best_time = times[0]
        for threads, seconds in times[1:]:
            if seconds < _WORTH * best_time:
                best, best_time = threads, seconds
        choices.append((until, best))
    chosen = ThreadChoice(tuple(choices), most)
    timed = [f"{threads} up to {limit} rows" for limit, threads in choices[: len(PROBES) - 1]]
    beyond = choices[-1][1] if len(choices) == len(PROBES) else most
    logger.info("threads: %s", ", ".join([*timed, f"{beyond} beyond" if timed else f"{beyond}, not timed"]))
    return chosen


def _typical_time(
    rows: int, threads: int, step: Callable[[int], None], use: Callable[[int], None], deadline: float
) -> float:
    """The median: the minimum would hide what waking threads costs on cores that others use too."""
    use(threads)
    seconds: list[float] = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        step(rows)
        end = time.perf_counter()
        seconds.append(end - begin)
        if end > deadline:
            break
    return sorted(seconds)[len(seconds) // 2]
