"""A session as a picture: its graph as JSON, Graphviz or Mermaid text, and its calls over time for Perfetto.

Responsible for: those documents. Names in them cannot break out of them: they consist of letters, digits and
_.- only, and what is not a name is encoded as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from server.errors import BadRequest
from server.graph import objective
from server.graph.call import Call, Task
from server.graph.variable import SemanticVariable
from server.session.session import Session

_PID = 1


class VariableNode(msgspec.Struct, frozen=True):
    id: str
    name: str
    state: str
    objective: str
    producer: str | None
    consumers: list[str]


class TaskNode(msgspec.Struct, frozen=True):
    """`queue_ms`: from its inputs being there to its first step, `reason`: why it went to this engine."""

    id: str
    output: str
    reads: list[str]
    state: str
    order: int
    objective: str
    group: str | None
    engine: int | None
    queue_ms: float | None
    reason: str | None


class CallNode(msgspec.Struct, frozen=True):
    id: str
    state: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    tasks: list[TaskNode]


class GroupNode(msgspec.Struct, frozen=True):
    """Tasks that are scheduled as one unit."""

    id: str
    tasks: list[str]


class GraphDocument(msgspec.Struct, frozen=True):
    session: str
    variables: list[VariableNode]
    calls: list[CallNode]
    groups: list[GroupNode]


class TraceEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """Chrome's trace event format: "X" is a span (microseconds), "M" names a process or thread."""

    name: str
    ph: Literal["X", "M"]
    pid: int
    tid: int
    ts: float | None = None
    dur: float | None = None
    cat: str | None = None
    args: dict[str, str | int | float | None] = {}


class TraceDocument(msgspec.Struct, frozen=True):
    traceEvents: list[TraceEvent]
    displayTimeUnit: str = "ms"


def graph(session: Session, format: str) -> str:
    """`format` is json, dot or mermaid; raises BadRequest."""
    if format == "json":
        return msgspec.json.encode(document(session)).decode()
    if format == "dot":
        return _dot(session)
    if format == "mermaid":
        return _mermaid(session)
    raise BadRequest("format must be json, dot or mermaid.", param="format")


def document(session: Session) -> GraphDocument:
    groups: dict[str, list[str]] = {}
    for task in session.graph.tasks.values():
        if task.group is not None:
            groups.setdefault(task.group, []).append(task.id)
    return GraphDocument(
        session=session.id,
        variables=[_variable_node(session, variable) for variable in session.graph.variables.values()],
        calls=[_call_node(call) for call in session.graph.calls.values()],
        groups=[GroupNode(id, tasks) for id, tasks in groups.items()],
    )


def trace(session: Session, now: float) -> bytes:
    """A row for each call; what has not ended goes up to `now`."""
    events = [TraceEvent("process_name", "M", _PID, 0, args={"name": session.id})]
    for row, call in enumerate(session.graph.calls.values(), 1):
        events.append(TraceEvent("thread_name", "M", _PID, row, args={"name": call.id}))
        for task in call.tasks:
            events += _spans(task, row, now)
    return msgspec.json.encode(TraceDocument(events))


def _variable_node(session: Session, variable: SemanticVariable) -> VariableNode:
    return VariableNode(
        id=variable.id,
        name=variable.name,
        state=variable.state,
        objective=objective.describe(session.graph.get_perf_obj(variable)),
        producer=None if variable.producer is None else variable.producer.id,
        consumers=[task.id for task in variable.consumers],
    )


def _call_node(call: Call) -> CallNode:
    return CallNode(
        id=call.id,
        state=call.state,
        inputs={item.name: item.variable for item in call.spec.inputs},
        outputs={item.name: item.variable for item in call.spec.outputs},
        tasks=[
            TaskNode(
                id=task.id,
                output=task.output.id,
                reads=[variable.id for variable in task.reads],
                state=task.state,
                order=task.order,
                objective=objective.describe(task.objective),
                group=task.group,
                engine=task.progress.engine,
                queue_ms=task.progress.queued_ms,
                reason=task.progress.reason,
            )
            for task in call.tasks
        ],
    )


def _spans(task: Task, row: int, now: float) -> Iterator[TraceEvent]:
    """Waiting for inputs, queued, generating: each as far as it got."""
    progress = task.progress
    points = [task.call.created, progress.ready, progress.began]
    names = ("wait for inputs", "queued", "generate")
    for number, (name, start) in enumerate(zip(names, points, strict=True)):
        if start is None:
            return
        later = [point for point in points[number + 1 :] if point is not None]
        end = later[0] if later else (now if progress.finished is None else progress.finished)
        yield TraceEvent(
            f"{name}: {task.output.name}",
            "X",
            _PID,
            row,
            ts=start * 1e6,
            dur=max(end - start, 0.0) * 1e6,
            cat=name,
            args=_arguments(task) if name == "generate" else {},
        )


def _arguments(task: Task) -> dict[str, str | int | float | None]:
    usage = task.progress.usage
    return {
        "state": task.state,
        "objective": objective.describe(task.objective),
        "group": task.group,
        "engine": task.progress.engine,
        "queue_ms": task.progress.queued_ms,
        "reason": task.progress.reason,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
    }


def _dot(session: Session) -> str:
    lines = ["digraph session {", "  rankdir=LR;"]
    numbers = _numbers(session)
    for variable in session.graph.variables.values():
        label = f"{variable.name}\\n{variable.state}"
        lines.append(f'  {numbers[variable.id]} [shape=ellipse, label="{label}"];')
    for call in session.graph.calls.values():
        label = f"{call.id}\\n{call.state}\\n{_objectives(call)}"
        lines.append(f'  {numbers[call.id]} [shape=box, label="{label}"];')
    lines += [f"  {source} -> {target};" for source, target in _edges(session, numbers)]
    return "\n".join([*lines, "}"]) + "\n"


def _mermaid(session: Session) -> str:
    numbers = _numbers(session)
    variables = [
        f'  {numbers[variable.id]}(["{variable.name}<br/>{variable.state}"])'
        for variable in session.graph.variables.values()
    ]
    calls = [
        f'  {numbers[call.id]}["{call.id}<br/>{call.state}<br/>{_objectives(call)}"]'
        for call in session.graph.calls.values()
    ]
    edges = [f"  {source} --> {target}" for source, target in _edges(session, numbers)]
    return "\n".join(["flowchart LR", *variables, *calls, *edges]) + "\n"


def _numbers(session: Session) -> dict[str, str]:
    """Short names for the nodes."""
    variables = {id: f"v{number}" for number, id in enumerate(session.graph.variables)}
    return variables | {id: f"c{number}" for number, id in enumerate(session.graph.calls)}


def _objectives(call: Call) -> str:
    return ", ".join(dict.fromkeys(objective.describe(task.objective) for task in call.tasks))


def _edges(session: Session, numbers: dict[str, str]) -> Iterable[tuple[str, str]]:
    for call in session.graph.calls.values():
        for id in dict.fromkeys(item.variable for item in call.spec.inputs):
            yield numbers[id], numbers[call.id]
        for item in call.spec.outputs:
            yield numbers[call.id], numbers[item.variable]
