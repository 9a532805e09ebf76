"""When an engine that died is started again.

Responsible for: the delays, which double as long as deaths follow each other without progress, and for saying when
that has happened too often to keep anybody waiting. Pure: times come in.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 30.0
MAX_FAILURES = 5
STEADY_S = 60.0
"""An engine that was up for this long has not failed at starting, even if nothing was asked of it."""


@dataclass(slots=True)
class Restarts:
    """Owns the count of one engine's deaths without progress."""

    failures: int = 0

    def died(self, *, progressed: bool, ready_s: float) -> float:
        """Seconds until the next start. `progressed`: it has completed a step; `ready_s`: how long it was up."""
        steady = progressed or ready_s >= STEADY_S
        self.failures = 1 if steady else self.failures + 1
        return min(FIRST_DELAY_S * 2.0 ** (self.failures - 1), MAX_DELAY_S)

    @property
    def hopeless(self) -> bool:
        """It is still tried again, at the longest delay; but nobody should wait for that."""
        return self.failures >= MAX_FAILURES
