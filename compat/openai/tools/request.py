"""What a chat request says about tools, in the terms of the parts that act on it.

Responsible for: which tools the template is shown, which parser reads the output, and what a call in the history is
to a template.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Literal

import msgspec

from compat.openai.chat import ChatRequest
from compat.openai.structured import Constraint
from compat.openai.tools import fields
from compat.openai.tools.fields import NamedTool, ToolCall
from compat.openai.tools.parsers import PARSERS, Format, Listed, Named, Parser, format_of


def shown(request: ChatRequest) -> Sequence[Mapping[str, object]] | None:
    """The tools as a chat template wants them; None where the model is not to call any."""
    if not request.tools or request.tool_choice == "none":
        return None
    return [
        {"type": "function", "function": msgspec.to_builtins(_without_nulls(tool.function))}
        for tool in request.tools
    ]


def demanded(request: ChatRequest) -> Constraint | None:
    """Raises InvalidField."""
    return fields.demanded(
        request.tools or (), request.tool_choice, parallel=request.parallel_tool_calls is not False
    )


def parser(
    request: ChatRequest, template: str, format: Literal["auto", "none"] | Format = "auto"
) -> Callable[[], Parser] | None:
    """Makes a parser for each output; None: whatever comes is text. `format` of "auto": the template tells."""
    if not request.tools or request.tool_choice == "none":
        return None
    choice = request.tool_choice
    if isinstance(choice, NamedTool):
        name = choice.function.name
        return lambda: Named(name)
    if choice == "required":
        return Listed
    if format == "auto":
        found = format_of(template)
        return None if found is None else PARSERS[found]
    return None if format == "none" else PARSERS[format]


def most(request: ChatRequest) -> int | None:
    """Calls of one output beyond which the others are left out."""
    return 1 if request.parallel_tool_calls is False else None


def as_template_value(call: ToolCall) -> Mapping[str, object]:
    """Templates write the arguments as JSON themselves; text that is none stays a text."""
    arguments: object = call.function.arguments
    with suppress(msgspec.DecodeError, RecursionError):
        arguments = msgspec.json.decode(call.function.arguments)
    return {
        "id": call.id,
        "type": call.type,
        "function": {"name": call.function.name, "arguments": arguments},
    }


def _without_nulls(function: fields.Function) -> dict[str, object]:
    return {
        name: value for name in function.__struct_fields__ if (value := getattr(function, name)) is not None
    }
