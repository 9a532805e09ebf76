"""What an output has to look like: `response_format`, `structured_outputs`, `guided_*`, and a variable's `format`.

Responsible for: the shapes that clients send, at most one of them in a request, and one form for all of them
(`Constraint`). Whether a schema, expression or grammar is a good one is for the server to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec
import orjson

from compat.openai.errors import InvalidField

MAX_CHOICES_GIVEN = 1024

Kind = Literal["json_schema", "regex", "choice", "grammar", "calls"]

ANY_OBJECT = b'{"type":"object"}'
_SHAPES = ("json", "json_object", "regex", "choice", "grammar")


@dataclass(frozen=True, slots=True)
class Constraint:
    """`text`: a JSON schema, a regular expression, a JSON list of texts, a grammar (Lark or GBNF), or
    (`calls`) Lark of our own around the schemas of tools. `param`: the
    field it came in."""

    kind: Kind
    text: str
    param: str


class StructuredFields(Protocol):
    """The fields of a request that are read here."""

    @property
    def response_format(self) -> Any: ...
    @property
    def structured_outputs(self) -> Any: ...
    @property
    def guided_json(self) -> Any: ...
    @property
    def guided_regex(self) -> Any: ...
    @property
    def guided_choice(self) -> Any: ...
    @property
    def guided_grammar(self) -> Any: ...


def constraint(request: StructuredFields) -> Constraint | None:
    """What the output of a request must match; None: nothing was asked for. Raises InvalidField."""
    found = [*_constraints(request)]
    if len(found) > 1:
        raise InvalidField(f"{found[1].param} and {found[0].param} exclude each other.", found[1].param)
    return found[0] if found else None


def of_format(format: Mapping[str, Any], param: str) -> Constraint | None:
    """A semantic variable's `format`, or a request's `response_format`. Raises InvalidField."""
    kind = format.get("type")
    match kind:
        case "text":
            return None
        case "json_object":
            return Constraint("json_schema", ANY_OBJECT.decode(), param)
        case "json_schema":
            return _json_schema(format, param)
        case "regex" | "choice" | "grammar":
            names = {"choice": ("choices", "choice", "enum")}.get(kind, (kind, "pattern"))
            name = next((name for name in names if format.get(name) is not None), names[0])
            return _one(kind, format.get(name), f"{param}.{name}")
    raise InvalidField(
        "The type must be one of text, json_object, json_schema, regex, choice, grammar.", f"{param}.type"
    )


def _constraints(request: StructuredFields) -> Iterator[Constraint]:
    format = request.response_format
    if format is not None and (found := of_format(_object(format, "response_format"), "response_format")):
        yield found
    if (given := request.structured_outputs) is not None:
        members = _object(given, "structured_outputs")
        for name, value in members.items():
            if name in _SHAPES and value is not None and value is not False:
                yield _one(name, value, f"structured_outputs.{name}")
            elif name == "structural_tag" and value is not None:
                param = f"structured_outputs.{name}"
                raise InvalidField(f"{name} is not supported by this server.", param, "unsupported_field")
    for name in ("json", "regex", "choice", "grammar"):
        if (value := getattr(request, f"guided_{name}")) is not None:
            yield _one(name, value, f"guided_{name}")


def _json_schema(format: Mapping[str, Any], param: str) -> Constraint:
    """OpenAI's nesting, the Responses API's flat one, or `{"schema": ...}` of a variable."""
    inner, at = format, param
    if format.get("json_schema") is not None:
        at = f"{param}.json_schema"
        inner = _object(format["json_schema"], at)
    schema = inner.get("schema")
    if schema is None:
        raise InvalidField("A schema is required.", f"{at}.schema", "missing_required_parameter")
    return _one("json", schema, f"{at}.schema")


def _one(name: str, value: object, param: str) -> Constraint:
    match name:
        case "json_object":
            return Constraint("json_schema", ANY_OBJECT.decode(), param)
        case "json":
            return Constraint("json_schema", _schema(value, param), param)
        case "choice":
            return Constraint("choice", _choices(value, param), param)
    if not isinstance(value, str) or not value:
        raise InvalidField("A text is required.", param, "invalid_type")
    return Constraint("regex" if name == "regex" else "grammar", value, param)


def _schema(value: object, param: str) -> str:
    """As text; a client may have made it one."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidField(f"The schema is not valid JSON: {error}", param) from error
    if not isinstance(value, dict | bool):
        raise InvalidField("A JSON schema is an object.", param, "invalid_type")
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError as error:
        raise InvalidField(f"The schema cannot be used: {error}", param) from error


def _choices(value: object, param: str) -> str:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise InvalidField("A list of texts is required.", param, "invalid_type")
    if len(value) > MAX_CHOICES_GIVEN:
        raise InvalidField(f"At most {MAX_CHOICES_GIVEN} choices are allowed.", param)
    if not all(isinstance(item, str) and item for item in value):
        raise InvalidField("Every choice must be a text with a character or more.", param, "invalid_type")
    return orjson.dumps(list(value)).decode()


def _object(value: object, param: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidField("An object is required.", param, "invalid_type")
    return value
