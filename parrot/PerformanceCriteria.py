"""What a value is wanted for. The module has the name that the paper's programs import."""

from __future__ import annotations

from parrot.wire import Criteria, Limits

LATENCY = "latency"
"""Somebody waits for it: as soon as possible, end to end. What a `get` means when it says nothing."""

THROUGHPUT = "throughput"
"""It is one of many: the more at once, the better."""

__all__ = ["LATENCY", "THROUGHPUT", "Criteria", "Limits"]
