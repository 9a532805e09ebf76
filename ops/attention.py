"""Attention over a paged KV pool: the public names. `ops.reference.paged_attention` is the meaning.

A step's plan is prepared once (`prepare`) and run by every layer (`AttentionStep.run`). Decode, prefill and
shared prefixes are one op; the plan's tiles say which rows share which pages.
"""

from __future__ import annotations

from ops.cpu_attention import CHUNK, AttentionStep, Geometry, choose_query_quantum
from ops.cpu_prepared import PreparedSteps
from ops.cpu_rows import plan_of_rows
from ops.cpu_tiles import Plan, prepare

__all__ = [
    "CHUNK",
    "AttentionStep",
    "Geometry",
    "Plan",
    "PreparedSteps",
    "choose_query_quantum",
    "plan_of_rows",
    "prepare",
]
