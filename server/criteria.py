"""What a client says that a value is wanted for: checked, and in one shape.

Responsible for: `latency`, `throughput`, and limits as JSON or as text (`ttft_ms:200,tpot_ms:40`). What
follows from a criterion for the calls behind a value is deduced in `server.graph.objective`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

from engine.types import Urgency
from parrot.wire import Criteria, Limits
from server.errors import BadRequest

MAX_LIMIT_MS = 86_400_000.0
_NAMES = tuple(field.name for field in msgspec.structs.fields(Limits))


@dataclass(frozen=True, slots=True)
class Criterion:
    """Limits in milliseconds: to the first token, for each token, to the end; counted from the request."""

    urgency: Urgency = Urgency.LATENCY
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    deadline_ms: float | None = None


LATENCY = Criterion()
THROUGHPUT = Criterion(Urgency.THROUGHPUT)


def parse(criteria: Criteria | None, param: str = "criteria") -> Criterion:
    """None means latency. Raises BadRequest that names `param`."""
    if isinstance(criteria, str):
        match criteria.strip().lower():
            case "latency":
                return LATENCY
            case "throughput":
                return THROUGHPUT
            case text:
                return _limited(_limits(text, param), param)
    return LATENCY if criteria is None else _limited(criteria, param)


def _limits(text: str, param: str) -> Limits:
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition(":"))
        if name not in _NAMES or name in limits:
            raise BadRequest(
                f"{text[:100]!r} is neither latency, nor throughput, nor limits like ttft_ms:200,tpot_ms:40 "
                f"(of {', '.join(_NAMES)}).",
                param=param,
            )
        try:
            limits[name] = float(number)
        except ValueError:
            raise BadRequest(
                f"{name} is a number of milliseconds, not {number[:50]!r}.", param=param
            ) from None
    return Limits(**limits)


def _limited(limits: Limits, param: str) -> Criterion:
    values = msgspec.structs.asdict(limits)
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and 0 < value <= MAX_LIMIT_MS):
            raise BadRequest(f"{name} must be between 0 and {MAX_LIMIT_MS:.0f} milliseconds.", param=param)
    if all(value is None for value in values.values()):
        raise BadRequest(f"Limits need at least one of {', '.join(_NAMES)}.", param=param)
    return Criterion(Urgency.LATENCY, limits.ttft_ms, limits.tpot_ms, limits.deadline_ms)
