"""The shapes of the `parrot` member of a chat request, and of its answer. What they mean is `variables`'s."""

from __future__ import annotations

import msgspec


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """`session_id` absent: a new session. `inputs`: placeholder to variable, by name or id; those left out are the
    variables of their own name. `output`: the name of the variable that the answer becomes; absent: a new one.
    `wait`: false answers at once, a number after so many seconds at most; absent: when the value is there."""

    session_id: str | None = None
    inputs: dict[str, str] | None = None
    output: str | None = None
    wait: bool | float | None = None

    @property
    def seconds(self) -> float | None:
        """How long to wait; None: as long as it takes."""
        if self.wait is False:
            return 0.0
        return None if self.wait is None or self.wait is True else self.wait


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """The `parrot` member of an answer."""

    session_id: str
    call_id: str
    variable_id: str
    name: str
    state: str
