"""How long the next step waits for the successors of what has ended in the last one.

    nobody else runs            as long as the server may take: the step has nothing else to do
    somebody waits for a slot   a part of a step: who waits would take the slot, compute a prompt in it, and be
                                paused in the step after, when the successor is there
    else                        not at all: the successor joins those who run a step later

Responsible for: that rule. Pure. Leaves to others: who is followed (the server says so), and waiting (the loop).
"""

from __future__ import annotations

LONGEST_S = 0.01
"""The server takes one or two milliseconds for each successor; whoever takes longer waits for something else."""

SHARE = 0.5
"""Of a step, which those who run wait at most: twice it would be what waiting can save them."""


def wait_s(num_running: int, contested: bool, step_ms: float) -> float:
    """Seconds; 0: do not wait. num_running: sequences that somebody waits for. contested: another one would take
    the slot. step_ms: of a step in which those who run decode."""
    if not num_running:
        return LONGEST_S
    return min(LONGEST_S, SHARE * step_ms / 1e3) if contested else 0.0
