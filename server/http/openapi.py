"""The API as OpenAPI 3.1, made from the table of operations and the types that requests are decoded with.

Responsible for: the document. Pure: the same table gives the same bytes. Fields that are only there to be refused
are left out of it, and so is what a docstring says to developers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from parrot import wire
from server.http.operations import Operation, Query, Type

Json = dict[str, Any]

_REF = "#/components/schemas/{name}"
_UNTYPED = frozenset(
    {
        "response_format",
        "structured_outputs",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
    }
)
"""Fields of any type that are honoured; any other of any type is there to be refused by name."""


def document(operations: Sequence[Operation], version: str) -> bytes:
    """As JSON."""
    types: list[Type] = [wire.ErrorBody]
    types += dict.fromkeys(type_ for operation in operations for type_ in _types(operation))
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    refs: dict[Type, Json] = dict(zip(types, schemas, strict=True))
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, refs)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Parrot",
                "version": version,
                "description": "A server for LLM applications: OpenAI's API, and semantic variables.",
            },
            "paths": paths,
            "components": {
                "schemas": {name: _published(schema) for name, schema in sorted(components.items())},
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _types(operation: Operation) -> Iterable[Type]:
    yield from operation.takes
    yield from operation.streams
    yield from (given for given in operation.gives.values() if not isinstance(given, str))


def _operation(operation: Operation, refs: dict[Type, Json]) -> Json:
    described: Json = {
        "operationId": _id(operation),
        "summary": operation.summary,
        "tags": [operation.tag],
        "security": [] if operation.open else [{"key": []}, {}],
        "responses": _responses(operation, refs),
    }
    if parameters := [*_path_parameters(operation.path), *map(_query_parameter, operation.query)]:
        described["parameters"] = parameters
    if operation.takes:
        schema = _any_of([refs[type_] for type_ in operation.takes])
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def _responses(operation: Operation, refs: dict[Type, Json]) -> Json:
    responses: Json = {
        "default": {
            "description": "An error; `param` names the field.",
            "content": {"application/json": {"schema": refs[wire.ErrorBody]}},
        }
    }
    for status, given in operation.gives.items():
        content: Json = (
            {given: {}} if isinstance(given, str) else {"application/json": {"schema": refs[given]}}
        )
        if status == 200 and operation.streams:
            events = [refs[type_] for type_ in operation.streams]
            content["text/event-stream"] = {"schema": _event(_any_of(events))}
        responses[str(status)] = {"description": operation.summary, "content": content}
    return responses


def _event(data: Json) -> Json:
    """One event of a stream, as OpenAPI 3.2 describes them and tools read it in 3.1."""
    text = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    members = {"event": {"type": "string"}, "data": {"anyOf": [text, {"const": "[DONE]"}]}}
    return {"type": "object", "properties": members, "required": ["data"]}


def _any_of(schemas: list[Json]) -> Json:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _path_parameters(path: str) -> list[Json]:
    names = re.findall(r"\{(\w+)\}", path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _query_parameter(query: Query) -> Json:
    return {
        "name": query.name,
        "in": "query",
        "description": query.text,
        "schema": {"type": query.kind},
    }


def _id(operation: Operation) -> str:
    words = re.findall(r"\w+", operation.path.removeprefix("/v1"))
    return "_".join([operation.method.lower(), *words])


def _published(schema: Json) -> Json:
    schema.pop("description", None)
    if (properties := schema.get("properties")) is not None:
        schema["properties"] = {
            name: inner
            for name, inner in properties.items()
            if inner != {"default": None} or name in _UNTYPED
        }
    return schema
