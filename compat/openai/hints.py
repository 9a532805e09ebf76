"""What a client says about a request for its scheduling, and not about its answer.

Responsible for: shapes and ranges of `session_id`, `program_id`, `priority`, `service_tier`, `cache_salt` and
`nvext.agent_hints`, and one form for all of them (`Hints`). What a hint is worth is for the server to say.

Two of them name a priority, and in opposite directions: vLLM's `priority` is a rank (smaller goes first), that of
`agent_hints` a weight (greater goes first). `Hints.priority` is the rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import msgspec

from compat.openai.errors import InvalidField

SERVICE_TIERS = ("auto", "default", "flex", "scale", "priority", "fast")
MAX_PRIORITY = 2**31 - 1
MAX_EXPECTED_TOKENS = 2**31 - 1
MAX_NAME = 256  # characters of an id or a salt


class AgentHints(msgspec.Struct, frozen=True):
    """`osl`: how many tokens the output is expected to have."""

    priority: int | None = None
    osl: int | None = None


class Nvext(msgspec.Struct, frozen=True):
    """Dynamo's extensions, as far as they mean something here; its other members are ignored."""

    agent_hints: AgentHints | None = None


@dataclass(frozen=True, slots=True)
class Hints:
    """`program`: requests of the same one belong together. `patient`: others may go first, whatever their order.
    `priority` 0 is everybody's, smaller goes first. `expected_tokens` of the output, where the client can tell."""

    program: str | None = None
    patient: bool = False
    priority: int = 0
    expected_tokens: int | None = None
    cache_salt: str | None = None


NO_HINTS = Hints()


class HintFields(Protocol):
    """The fields of a request that are read here."""

    @property
    def session_id(self) -> str | None: ...
    @property
    def program_id(self) -> str | None: ...
    @property
    def priority(self) -> int | None: ...
    @property
    def service_tier(self) -> str | None: ...
    @property
    def cache_salt(self) -> str | None: ...
    @property
    def nvext(self) -> Nvext | None: ...


def hints(request: HintFields) -> Hints:
    """Raises InvalidField."""
    for name in ("session_id", "program_id", "cache_salt"):
        value: str | None = getattr(request, name)
        if value is not None and not 1 <= len(value) <= MAX_NAME:
            raise InvalidField(f"{name} must have between 1 and {MAX_NAME} characters.", name)
    if request.service_tier is not None and request.service_tier not in SERVICE_TIERS:
        raise InvalidField(f"service_tier must be one of {', '.join(SERVICE_TIERS)}.", "service_tier")
    agent = (request.nvext and request.nvext.agent_hints) or AgentHints()
    priority = _within(request.priority, MAX_PRIORITY, "priority")
    weight = _within(agent.priority, MAX_PRIORITY, "nvext.agent_hints.priority")
    osl = agent.osl
    if osl is not None and not 1 <= osl <= MAX_EXPECTED_TOKENS:
        param = "nvext.agent_hints.osl"
        raise InvalidField(f"osl must be between 1 and {MAX_EXPECTED_TOKENS}.", param)
    rank = -(weight or 0) if priority is None else priority
    return Hints(
        program=request.program_id or request.session_id,
        patient=request.service_tier == "flex" or rank > 0,
        priority=rank,
        expected_tokens=osl,
        cache_salt=request.cache_salt,
    )


def served_tier(request: HintFields) -> str | None:
    """What an answer says about its tier, when the client named one: all but `flex` are treated alike."""
    if request.service_tier is None:
        return None
    return "flex" if request.service_tier == "flex" else "default"


def _within(value: int | None, most: int, param: str) -> int | None:
    if value is not None and not -most <= value <= most:
        raise InvalidField(f"The priority must be between {-most} and {most}.", param)
    return value
