"""How many threads a step of so many rows is given.

Small steps run best on one thread: waking a sleeping worker takes longer than the work (with
OMP_WAIT_POLICY=PASSIVE about 50 us for each parallel region). By the contract of batch invariance the number
changes no result, so it may be chosen by timing, and for every step anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)

PROBES = ((1, 4), (16, 48), (128, 1 << 30))
"""(rows that are timed, up to how many rows the finding is used)."""

_BUDGET_S = 0.12
_REPEATS = 5
_WORTH = 0.9


class ThreadChoice:
    """Sets torch's number of threads before a step. `choices`: (up to this many rows, threads), ascending."""

    __slots__ = ("_choices", "_current", "_most")

    def __init__(self, choices: tuple[tuple[int, int], ...], most: int) -> None:
        self._choices = choices
        self._most = most
        self._current = torch.get_num_threads()

    @property
    def most(self) -> int:
        return self._most

    def use_for(self, rows: int) -> None:
        """Set the number of threads for a step of `rows` rows."""
        self.use(next((threads for limit, threads in self._choices if rows <= limit), self._most))

    def use(self, threads: int) -> None:
        if threads != self._current:
            torch.set_num_threads(threads)
            self._current = threads


def fixed_threads(threads: int) -> ThreadChoice:
    """The same number for every step."""
    return ThreadChoice((), threads)


def time_threads(most: int, step: Callable[[int], None], choice: ThreadChoice) -> ThreadChoice:
    """Choose by timing `step(rows)` at PROBES with 1, 2, 4, ... `most` threads; at most about 0.15 s.

    More threads must pay: each doubling has to take a tenth off. A large model does not get through in time, and
    what is not timed uses all threads.
    """
    candidates = sorted({most, *(2**power for power in range(most.bit_length()) if 2**power < most)})
    deadline = time.perf_counter() + _BUDGET_S
    choices: list[tuple[int, int]] = []
    for rows, until in PROBES:
        times = [(threads, _typical_time(rows, threads, step, choice, deadline)) for threads in candidates]
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
    rows: int, threads: int, step: Callable[[int], None], choice: ThreadChoice, deadline: float
) -> float:
    """The median: the minimum would hide what waking threads costs on cores that others use too."""
    choice.use(threads)
    seconds: list[float] = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        step(rows)
        end = time.perf_counter()
        seconds.append(end - begin)
        if end > deadline:
            break
    return sorted(seconds)[len(seconds) // 2]
