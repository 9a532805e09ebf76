"""FindEngine: what it costs to place a task on an engine.

Responsible for: an engine's load as the scheduler knows it, and the cost of one more task. The first version
counts tokens: what is resident or promised there already, and what the task adds beyond the prefix that the
engine computed before. It is the seam for the cost of scheduling.md, section 2 (capacities, step limits,
queueing delay).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from server.scheduler.events import TaskSpec

MAX_PREFIXES = 16_384  # of one engine; the oldest are forgotten, as its cache forgets them


@dataclass(slots=True)
class Engine:
    """Owned by AppScheduler. `promised`: tokens of prompts and outputs of the tasks placed here."""

    id: int
    capacity: int
    tasks: dict[int, None] = field(default_factory=dict)
    promised: int = 0
    num_running: int = 0
    num_waiting: int = 0
    free_tokens: int = 0
    _prefixes: OrderedDict[bytes, None] = field(default_factory=OrderedDict)

    def place(self, spec: TaskSpec) -> None:
        self.tasks[spec.task_id] = None
        self.promised += footprint(spec)
        for prefix in spec.prefix_hashes:
            self._prefixes[prefix] = None
            self._prefixes.move_to_end(prefix)
        while len(self._prefixes) > MAX_PREFIXES:
            self._prefixes.popitem(last=False)

    def remove(self, spec: TaskSpec) -> None:
        del self.tasks[spec.task_id]
        self.promised -= footprint(spec)

    def shared_tokens(self, spec: TaskSpec) -> int:
        """How much of the prompt this engine has computed before."""
        for prefix, tokens in zip(reversed(spec.prefix_hashes), reversed(spec.prefix_tokens), strict=True):
            if prefix in self._prefixes:
                return tokens
        return 0


def footprint(spec: TaskSpec) -> int:
    """KV tokens that a task takes in the worst case."""
    return spec.num_tokens + spec.max_tokens


def placement_cost(engine: Engine, spec: TaskSpec) -> int:
    """In tokens; the smallest is best."""
    return engine.promised + footprint(spec) - engine.shared_tokens(spec)
