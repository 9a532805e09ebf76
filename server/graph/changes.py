"""What a mutation of the call graph has done, for those who act on it.

Responsible for: the shape of that, in the order in which it happened, without repetitions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from server.graph.call import Task


@dataclass(slots=True)
class Changes:
    """What a mutation has done. Dicts are ordered sets."""

    ready: dict[Task, None] = field(default_factory=dict)
    variables: dict[str, None] = field(default_factory=dict)
    started: dict[str, None] = field(default_factory=dict)
    finished: dict[str, None] = field(default_factory=dict)
    aborted: dict[Task, None] = field(default_factory=dict)
    reprioritised: dict[Task, None] = field(default_factory=dict)

    def join(self, later: Changes) -> None:
        """What was done after this."""
        for name in ("ready", "variables", "started", "finished", "aborted", "reprioritised"):
            getattr(self, name).update(getattr(later, name))
