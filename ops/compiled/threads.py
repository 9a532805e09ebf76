"""How many threads share the loops of compiled functions."""

from __future__ import annotations

import numba


def use_threads(threads: int) -> None:
    """At most as many as the process had cores when numba was imported: its pool does not grow."""
    threads = min(threads, numba.config.NUMBA_NUM_THREADS)
    if threads != numba.get_num_threads():
        numba.set_num_threads(threads)
