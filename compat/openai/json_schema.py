"""A JSON schema as the grammars' library takes it: the same meaning in other words, or an error with a keyword.

Responsible for: what the library refuses though it asks for nothing (`uniqueItems` false, a schema that is `true`),
`oneOf` of members that exclude each other (as Pydantic writes unions that a constant tells apart), and what it
would misread. Pure. Everything else is the library's to follow or to refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 64

_ONE = (
    "additionalItems",
    "additionalProperties",
    "contains",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_SEVERAL = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_NAMED = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")

Json = Any


class UnsupportedSchema(ValueError):
    """The message names the keyword."""


def prepared(schema: Json) -> Json:
    """Raises UnsupportedSchema."""
    if schema is True:
        return {}
    if schema is False:
        raise UnsupportedSchema("the schema false matches nothing")
    return _prepared(schema, schema, 0)


def explained(message: str) -> str:
    """The library's own words, where they speak of its options."""
    if "oneOf constraints are not supported" in message:
        return (
            "oneOf is supported where a required constant property tells its members apart; anyOf always is"
        )
    return message.replace("Unimplemented keys:", "Unsupported keywords:").replace(
        "Unknown format:", "Unsupported format:"
    )


def _prepared(schema: Json, root: Json, depth: int) -> Json:
    if not isinstance(schema, dict):
        return schema
    if depth > MAX_DEPTH:
        raise UnsupportedSchema(f"a schema may be nested {MAX_DEPTH} levels deep")
    _check(schema)
    found = dict(schema)
    if found.get("uniqueItems") is False:
        del found["uniqueItems"]
    for name in _ONE:
        if isinstance(found.get(name), dict):
            found[name] = _prepared(found[name], root, depth + 1)
    for name in _SEVERAL:
        if isinstance(found.get(name), list):
            found[name] = [_prepared(each, root, depth + 1) for each in found[name]]
    for name in _NAMED:
        if isinstance(found.get(name), dict):
            found[name] = {key: _prepared(each, root, depth + 1) for key, each in found[name].items()}
    if "oneOf" in found and "anyOf" not in found and _told_apart(found["oneOf"], root):
        found["anyOf"] = found.pop("oneOf")
    return found


def _check(schema: Mapping[str, Json]) -> None:
    for name in ("exclusiveMaximum", "exclusiveMinimum"):
        if isinstance(schema.get(name), bool):
            raise UnsupportedSchema(f"{name} is a number since draft 6")


def _told_apart(members: Json, root: Json) -> bool:
    """Whether at most one of them can match: a property that all of them require has another constant in each."""
    if not isinstance(members, list):
        return False
    constants = [_constants(_resolved(member, root)) for member in members]
    for name in set.intersection(*map(set, constants)) if constants else ():
        values = [value for each in constants for value in each[name]]
        if len({*values}) == len(values):
            return True
    return False


def _constants(schema: Json) -> dict[str, list[str]]:
    """The texts that each required property may have, of those that are bound to some."""
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return {}
    found: dict[str, list[str]] = {}
    properties, required = schema.get("properties"), schema.get("required")
    for name, inner in properties.items() if isinstance(properties, dict) else ():
        values = [inner["const"]] if isinstance(inner, dict) and "const" in inner else _enum(inner)
        bound = bool(values) and all(isinstance(each, str) for each in values)
        if bound and isinstance(required, list) and name in required:
            found[name] = values
    return found


def _enum(schema: Json) -> list[Json]:
    values = schema.get("enum") if isinstance(schema, dict) else None
    return values if isinstance(values, list) else []


def _resolved(schema: Json, root: Json) -> Json:
    """A reference into the schema's own definitions, followed once; whatever else, as it is."""
    reference = schema.get("$ref") if isinstance(schema, dict) else None
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return schema
    found: Json = root
    for part in reference[2:].split("/"):
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found
