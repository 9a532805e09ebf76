"""The shapes in which clients ask for structured output."""

from __future__ import annotations

import json

import msgspec
import pytest

from compat.openai.completions import CompletionRequest
from compat.openai.errors import InvalidField
from compat.openai.structured import Constraint, constraint, of_format

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "string"}}}
TEXT = json.dumps(SCHEMA, separators=(",", ":"))
NAMED = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}


def asked(**fields: object) -> Constraint | None:
    return constraint(msgspec.json.decode(json.dumps({"prompt": "x"} | fields), type=CompletionRequest))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"structured_outputs": {"json": None}}, None),
        ({"response_format": {"type": "json_object"}}, ("json_schema", '{"type":"object"}')),
        ({"response_format": NAMED}, ("json_schema", TEXT)),
        ({"structured_outputs": {"json": SCHEMA}}, ("json_schema", TEXT)),
        ({"structured_outputs": {"json": TEXT}}, ("json_schema", TEXT)),
        ({"structured_outputs": {"json_object": True}}, ("json_schema", '{"type":"object"}')),
        ({"structured_outputs": {"regex": "a+"}}, ("regex", "a+")),
        ({"structured_outputs": {"choice": ["a", "b"]}}, ("choice", '["a","b"]')),
        ({"structured_outputs": {"grammar": "start: A"}}, ("grammar", "start: A")),
        ({"guided_json": SCHEMA}, ("json_schema", TEXT)),
        ({"guided_regex": "a"}, ("regex", "a")),
        ({"guided_choice": ["é"]}, ("choice", '["é"]')),
        ({"guided_grammar": "start: A"}, ("grammar", "start: A")),
    ],
)
def test_every_shape_is_understood_and_keeps_the_schema_s_order(
    fields: dict[str, object], expected: tuple[str, str] | None
) -> None:
    found = asked(**fields)
    assert (None if found is None else (found.kind, found.text)) == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "poem"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs.regex"),
        ({"structured_outputs": {"structural_tag": {}}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"guided_choice": ["a", ""]}, "guided_choice"),
        ({"guided_choice": ["a"] * 1025}, "guided_choice"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": [1]}, "guided_json"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
    ],
)
def test_what_cannot_be_understood_is_named(fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidField) as caught:
        asked(**fields)
    assert caught.value.param == param


def test_a_variable_s_format_has_the_same_types() -> None:
    assert of_format({"type": "regex", "pattern": "a"}, "f") == Constraint("regex", "a", "f.pattern")
    assert of_format({"type": "choice", "choices": ["a"]}, "f") == Constraint("choice", '["a"]', "f.choices")
    assert of_format({"type": "json_schema", "schema": SCHEMA}, "f") == Constraint(
        "json_schema", TEXT, "f.schema"
    )
