"""Values on their way into prompts and out of outputs, through the transforms between.

Responsible for: what goes into a call when a task of it gets ready, what an output's text makes of its variable,
and the failures of either, in the words that clients read. Leaves to others: when (`graph.dag`), and applying
pipelines ahead of it (`graph.prepared`).
"""

from __future__ import annotations

from server.graph.call import Task
from server.graph.prepared import Transforms
from server.graph.transform import TransformError
from server.graph.variable import Failure


def fill(task: Task, transforms: Transforms, max_context: int) -> Failure | None:
    """Puts the values of its inputs into the call. `max_context`: characters that the task may be made of."""
    call = task.call
    read = {variable.id: variable for variable in task.reads}
    for item in call.spec.inputs:
        if item.variable not in read or item.name in call.filled:
            continue
        value = read[item.variable].value or ""
        try:
            call.filled[item.name] = transforms.apply(item.transforms, value) if item.transforms else value
        except TransformError as error:
            message = f"the input {item.name!r} cannot be transformed: {error}"
            return Failure(task.output.name, message, "transform_failed", call.id)
    if task.context_size() > max_context:
        message = f"its prompt would have more than {max_context} characters"
        return Failure(task.output.name, message, "limit_exceeded", call.id)
    return None


def value_of(task: Task, text: str, transforms: Transforms, size: int, max_size: int) -> str | Failure:
    """Of the task's variable, when this is its output. `size`: characters of the session without it."""
    name, pipeline, call = task.output.name, task.spec.transforms, task.call.id
    try:
        value = transforms.apply(pipeline, text) if pipeline else text
    except TransformError as error:
        return Failure(name, f"the output cannot be transformed: {error}", "transform_failed", call)
    if size + len(value) > max_size:
        message = f"the session's texts would have more than {max_size} characters"
        return Failure(name, message, "limit_exceeded", call)
    return value
