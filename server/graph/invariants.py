"""What must hold of a call graph after every event; tests ask after each.

Responsible for: recomputing from scratch what `CallGraph` keeps incrementally, and comparing.
"""

from __future__ import annotations

from collections.abc import Mapping

from parrot import wire
from server.graph.call import Task
from server.graph.dag import CallGraph
from server.graph.variable import SemanticVariable

_STATES: Mapping[str, tuple[wire.VariableState, ...]] = {
    "waiting": ("pending",),
    "ready": ("pending",),
    "running": ("running",),
    "done": ("ready", "failed"),  # a transform may fail
    "failed": ("failed",),
    "cancelled": ("cancelled",),
}
"""Of a task, the states that its output may be in."""


def check(graph: CallGraph) -> None:
    """Raises AssertionError."""
    for name, id in graph.names.items():
        assert graph.variables[id].name == name
    for variable in graph.variables.values():
        _check_variable(variable)
    for task in graph.tasks.values():
        _check_task(task)
    for call in graph.calls.values():
        assert call.unfinished == sum(not task.ended for task in call.tasks)
    sizes = sum(call.spec.size for call in graph.calls.values())
    assert graph.size == sizes + sum(len(variable.value or "") for variable in graph.variables.values())


def _check_variable(variable: SemanticVariable) -> None:
    assert (variable.value is not None) == (variable.state == "ready")
    assert (variable.failure is not None) == (variable.state in ("failed", "cancelled"))
    assert len(set(variable.consumers)) == len(variable.consumers)
    if variable.producer is None:
        assert variable.state in ("empty", "ready", "cancelled")
    else:
        assert variable.producer.output is variable
        assert variable.state in _STATES[variable.producer.state]


def _check_task(task: Task) -> None:
    before = [variable.producer for variable in task.reads if variable.producer is not None]
    before += [task.previous] if task.previous is not None else []
    assert all(producer.order < task.order for producer in before)
    unmet = sum(variable.state != "ready" for variable in task.reads)
    unmet += task.previous is not None and task.previous.state != "done"
    if task.state == "waiting":
        assert task.missing == unmet > 0
        assert not any(variable.failure for variable in task.reads)
    elif task.state in ("ready", "running", "done"):
        assert unmet == 0
