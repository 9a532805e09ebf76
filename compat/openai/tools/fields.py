"""`tools` and `tool_choice` of a chat: their shapes, and what an output has to match when a call is demanded.

Responsible for: checking names and schemas' outer form, and the grammar of `required` and named calls: they are
written by constraint, so they work with every model. What a model writes on its own is `parsers`' business.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import orjson

from compat.openai.errors import InvalidField
from compat.openai.json_schema import UnsupportedSchema, prepared
from compat.openai.structured import Constraint

MAX_TOOLS = 128
MAX_CALLS = 16
"""Of one output, where their number is up to a constraint."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NAMED_SCHEMAS = frozenset({"properties", "$defs", "definitions"})
_SCHEMAS = frozenset({"items", "prefixItems", "anyOf", "oneOf"})
_WHITESPACE = r"\x20|\n\x20{0,24}"


class Function(msgspec.Struct, frozen=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, frozen=True):
    function: Function
    type: str = "function"


class NamedFunction(msgspec.Struct, frozen=True):
    name: str


class NamedTool(msgspec.Struct, frozen=True):
    function: NamedFunction
    type: str = "function"


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class CalledFunction(msgspec.Struct, frozen=True):
    """`arguments` is JSON in a text, as models write it."""

    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct, frozen=True):
    function: CalledFunction
    id: str = ""
    type: str = "function"


def check(tools: Sequence[Tool], choice: ToolChoice | None) -> None:
    """Raises InvalidField."""
    if len(tools) > MAX_TOOLS:
        raise InvalidField(f"At most {MAX_TOOLS} tools are allowed.", "tools")
    for index, tool in enumerate(tools):
        if tool.type != "function":
            raise InvalidField(
                "Only functions are supported by this server.", f"tools[{index}].type", "unsupported_field"
            )
        if not _NAME.fullmatch(tool.function.name):
            raise InvalidField("A name has 1 to 64 of A-Z a-z 0-9 _ . -", f"tools[{index}].function.name")
    names = [tool.function.name for tool in tools]
    if len({*names}) < len(names):
        raise InvalidField("Two functions have the same name.", "tools")
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise InvalidField("There is no tool of this name.", "tool_choice.function.name")
    if choice == "required" and not tools:
        raise InvalidField("tool_choice required needs tools.", "tool_choice")


def demanded(tools: Sequence[Tool], choice: ToolChoice | None, parallel: bool) -> Constraint | None:
    """What the output must match: for a named function its arguments, for `required` a list of calls."""
    if isinstance(choice, NamedTool):
        index = [tool.function.name for tool in tools].index(choice.function.name)
        lines = ["start: arguments", f"arguments: {_json(tools[index])}"]
        return Constraint("calls", "\n".join(lines), f"tools[{index}].function.parameters")
    if choice != "required":
        return None
    more = f'("," call){{0,{MAX_CALLS - 1}}} ' if parallel else ""
    lines = [f'start: "[" call {more}"]"', "call: " + " | ".join(f"call_{i}" for i in range(len(tools)))]
    for index, tool in enumerate(tools):
        head = orjson.dumps(f'{{"name":"{tool.function.name}","arguments":').decode()
        lines.append(f'call_{index}: {head} arguments_{index} "}}"')
        lines.append(f"arguments_{index}: {_json(tool)}")
    return Constraint("calls", "\n".join(lines), "tools")


def _json(tool: Tool) -> str:
    schema: dict[str, Any] = {"type": "object"} | (tool.function.parameters or {"properties": {}})
    try:
        schema = prepared(schema)
        if b'"allOf"' not in orjson.dumps(schema):
            schema = _closed(schema)
        return "%json " + orjson.dumps(schema | {"x-guidance": {"whitespace_pattern": _WHITESPACE}}).decode()
    except (orjson.JSONEncodeError, UnsupportedSchema) as error:
        raise InvalidField(f"The parameters cannot be used: {error}", "tools") from error


def _closed(schema: Any) -> Any:
    """Objects that name their properties admit no others unless they say so: less than the schema allows, and
    what a function's author means. (Not for `allOf`, whose parts would exclude each other's properties.)"""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    whole = dict(schema)
    for keyword in _NAMED_SCHEMAS & schema.keys():
        if isinstance(schema[keyword], dict):
            whole[keyword] = {name: _closed(part) for name, part in schema[keyword].items()}
    for keyword in _SCHEMAS & schema.keys():
        whole[keyword] = _closed(schema[keyword])
    if "properties" in schema and "patternProperties" not in schema:
        whole.setdefault("additionalProperties", False)
    return whole
