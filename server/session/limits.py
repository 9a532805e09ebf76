"""What a client may make a session hold. Refused with an error that names the field and the number."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes are in characters. `size`: a session's templates and values; `context`: one task's prompt."""

    sessions: int = 1000  # of one tenant
    calls: int = 20_000
    variables: int = 50_000
    size: int = 64 * 2**20
    value: int = 4 * 2**20
    context: int = 8 * 2**20
    segments: int = 4096  # of one template
    submit_segments: int = 100_000  # of all templates of one submit
    submit_transforms: int = 100_000  # of one submit: the sizes of its different pipelines
    outputs: int = 64  # of one call
    fan_out: int = 20_000  # tasks that read one variable
    max_ttl: float = 7 * 86400.0  # seconds
