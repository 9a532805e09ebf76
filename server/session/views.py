"""What a client is told about a session: wire shapes, made from the state when somebody asks.

Responsible for: infos, the reason why a variable is not ready, errors with their causes, and usage. The graph
and the trace as documents are `session.export`'s. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from parrot import wire
from server.graph import objective
from server.graph.call import Call, Task
from server.graph.variable import MAX_CAUSES, SemanticVariable
from server.session.events import CallsSubmitted
from server.session.session import Session

LISTED_CAUSES = 3  # of each failure in a list


def session_info(session: Session) -> wire.SessionInfo:
    return wire.SessionInfo(
        id=session.id,
        created_at=session.created_at,
        expires_at=session.expires_at,
        model=session.model,
        metadata=session.metadata,
        num_calls=len(session.graph.calls),
        num_variables=len(session.graph.variables),
    )


def submit_answer(event: CallsSubmitted) -> wire.SubmitAnswer:
    """One handle a call, in the order of the submit."""
    return wire.SubmitAnswer(
        calls=[
            wire.CallHandle(
                id=spec.id,
                inputs={item.name: item.variable for item in spec.inputs},
                outputs={item.name: item.variable for item in spec.outputs},
                warnings=list(spec.warnings),
            )
            for spec in event.calls
        ]
    )


def variable_info(variable: SemanticVariable) -> wire.VariableInfo:
    return _variable_info(variable, error_of(variable), reason(variable))


def variable_infos(session: Session) -> list[wire.VariableInfo]:
    """All of them, in time that is linear in the size of the graph."""
    variables = session.graph.variables.values()
    known: dict[str, str] = {}
    return [_variable_info(v, error_of(v, LISTED_CAUSES), reason(v, known)) for v in variables]


def _variable_info(
    variable: SemanticVariable, error: wire.VariableError | None, reason: str | None
) -> wire.VariableInfo:
    return wire.VariableInfo(
        id=variable.id,
        name=variable.name,
        state=variable.state,
        value=variable.value,
        error=error,
        reason=reason,
        producer=None if variable.producer is None else variable.producer.call.id,
        consumers=list(dict.fromkeys(task.call.id for task in variable.consumers)),
    )


def error_of(variable: SemanticVariable, max_causes: int = MAX_CAUSES) -> wire.VariableError | None:
    return None if variable.failure is None else variable.failure.error(max_causes)


def call_info(call: Call) -> wire.CallInfo:
    strictest = call.tasks[0].objective
    for task in call.tasks:
        strictest = objective.strictest(strictest, task.objective)
    engines = [task.progress.engine for task in call.tasks if task.progress.engine is not None]
    return wire.CallInfo(
        id=call.id,
        state=call.state,
        inputs={item.name: item.variable for item in call.spec.inputs},
        outputs={item.name: item.variable for item in call.spec.outputs},
        usage=usage([call]),
        timing=timing([call]),
        objective=objective.describe(strictest),
        engine=engines[-1] if engines else None,
        error=call.error,
    )


def usage(calls: Iterable[Call]) -> wire.Usage:
    """The sum over their outputs."""
    parts = [task.progress.usage for call in calls for task in call.tasks]
    prompt = sum(part.prompt_tokens for part in parts)
    completion = sum(part.completion_tokens for part in parts)
    return wire.Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        cached_tokens=sum(part.cached_tokens for part in parts),
    )


def timing(calls: Iterable[Call]) -> wire.Timing:
    """Over all of the calls: from the first submit to the last end, if all have ended."""
    calls = list(calls)
    tasks = [task.progress for call in calls for task in call.tasks]
    ready = min((progress.ready for progress in tasks if progress.ready is not None), default=None)
    started = min((progress.started for progress in tasks if progress.started is not None), default=None)
    ended = all(call.unfinished == 0 for call in calls)
    finished = max((p.finished for p in tasks if p.finished is not None), default=None) if ended else None
    return wire.Timing(
        created=min(call.created for call in calls),
        started=started,
        finished=finished,
        queued_ms=_milliseconds(ready, started),
        run_ms=_milliseconds(started, finished),
    )


def reason(variable: SemanticVariable, known: dict[str, str] | None = None) -> str | None:
    """Why it has no value yet: what stands at the end of what it waits for. None when it has ended.

    `known`: the reasons of those that wait for something, by their ids; filled on the way.
    """
    if variable.ended:
        return None
    if variable.producer is None:
        return "has no producer and no value"
    known = {} if known is None else known
    passed: list[str] = []
    while (found := known.get(variable.id)) is None:
        passed.append(variable.id)
        if isinstance(end := _end_or_blocked(variable), str):
            found = end
            break
        variable = end
    known.update(dict.fromkeys(passed, found))
    return found


def _end_or_blocked(variable: SemanticVariable) -> str | SemanticVariable:
    """The reason that everybody has who waits for it, or the variable that it waits for itself."""
    task = variable.producer
    if task is None:
        return f"waits for the variable {variable.name!r}, which has no producer and no value"
    if (blocked := _blocked(task)) is not None:
        return blocked
    return f"waits for {task.call.id}, which {'is running' if task.state == 'running' else 'is queued'}"


def _blocked(task: Task) -> SemanticVariable | None:
    """The first variable that a waiting task waits for."""
    if task.state != "waiting":
        return None
    missing = next((variable for variable in task.reads if variable.state != "ready"), None)
    if missing is None and task.previous is not None:
        return task.previous.output
    return missing


def _milliseconds(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round((end - start) * 1000, 3)
