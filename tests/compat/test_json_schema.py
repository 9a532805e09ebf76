"""How much of JSON Schema an output can be bound to, measured against `jsonschema`, which knows no grammars.

Of each keyword: is it taken, and then are the right texts let through and the wrong ones stopped? And whatever
comes out of a random walk through the grammar of a random schema has to match that schema.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from llguidance import LLMatcher, LLTokenizer

from compat.openai.json_schema import MAX_DEPTH, UnsupportedSchema, prepared
from compat.openai.structured import Constraint
from server import structured
from server.errors import BadRequest

BYTES = LLTokenizer("byte")
CHECKER = Draft202012Validator.FORMAT_CHECKER


@dataclass(frozen=True)
class Case:
    """`good` and `bad`: values that match the schema, and that do not."""

    schema: Any
    good: tuple[Any, ...]
    bad: tuple[Any, ...]


def obj(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


KIND = {"a": {"const": "a"}, "b": {"const": "b"}}
UNION = {
    "oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}],
    "$defs": {
        "A": {**obj(kind=KIND["a"], x={"type": "integer"}), "required": ["kind"]},
        "B": {**obj(kind=KIND["b"], y={"type": "null"}), "required": ["kind"]},
    },
}
TREE = {
    **obj(next={"anyOf": [{"$ref": "#"}, {"type": "null"}]}),
    "required": ["next"],
    "additionalProperties": False,
}
SUPPORTED: dict[str, Case] = {
    "type": Case({"type": ["string", "null"]}, ("a", None), (1, [], {})),
    "enum": Case({"enum": [1, "a", None, {"a": [1]}]}, (1, "a", None, {"a": [1]}), (2, "b", {"a": [2]})),
    "const": Case({"const": {"a": [1]}}, ({"a": [1]},), ({"a": [2]}, 1)),
    "multipleOf": Case({"type": "integer", "multipleOf": 3}, (0, 3, -6, 300), (1, 100)),
    "maximum": Case({"type": "integer", "maximum": 10}, (10, -5), (11, 1000)),
    "minimum": Case({"type": "number", "minimum": 1.5}, (1.5, 20), (1.49, -3)),
    "exclusiveMaximum": Case({"type": "integer", "exclusiveMaximum": 10}, (9,), (10,)),
    "exclusiveMinimum": Case({"type": "integer", "exclusiveMinimum": 1}, (2,), (1, 0)),
    "maxLength": Case({"type": "string", "maxLength": 3}, ("", "abc", "äöü"), ("abcd",)),
    "minLength": Case({"type": "string", "minLength": 3}, ("abc", "abcd"), ("", "ab")),
    "pattern": Case({"type": "string", "pattern": "^a+b?$"}, ("a", "aab"), ("", "ba", "abb")),
    "pattern (not anchored)": Case({"type": "string", "pattern": "b"}, ("b", "abc"), ("", "ac")),
    "format date": Case({"type": "string", "format": "date"}, ("2024-02-29",), ("2024-2-9", "yesterday")),
    "format date-time": Case(
        {"type": "string", "format": "date-time"}, ("2024-02-29T10:00:00Z",), ("2024-02-29", "now")
    ),
    "format time": Case({"type": "string", "format": "time"}, ("10:00:00Z",), ("ten", "25")),
    "format email": Case({"type": "string", "format": "email"}, ("a@b.org",), ("a", "@")),
    "format uuid": Case(
        {"type": "string", "format": "uuid"}, ("123e4567-e89b-12d3-a456-426614174000",), ("123", "")
    ),
    "format ipv4": Case({"type": "string", "format": "ipv4"}, ("127.0.0.1",), ("1.2.3", "256.0.0.1")),
    "format ipv6": Case({"type": "string", "format": "ipv6"}, ("::1", "fe80::1"), ("1", "g::")),
    "format hostname": Case({"type": "string", "format": "hostname"}, ("example.org",), ("-", "a b")),
    "format uri": Case({"type": "string", "format": "uri"}, ("https://a.org/b?c",), ("a b", "")),
    "format duration": Case({"type": "string", "format": "duration"}, ("P1D", "PT5M"), ("1D", "")),
    "items": Case({"type": "array", "items": {"type": "integer"}}, ([], [1, 2]), (["a"], [1, None])),
    "prefixItems": Case(
        {"type": "array", "prefixItems": [{"const": 1}, {"const": "a"}], "items": False},
        ([1, "a"], [1]),
        (["a"], [1, "a", 2]),
    ),
    "minItems": Case({"type": "array", "items": {"const": 1}, "minItems": 2}, ([1, 1],), ([], [1])),
    "maxItems": Case({"type": "array", "items": {"const": 1}, "maxItems": 2}, ([], [1, 1]), ([1, 1, 1],)),
    "uniqueItems (false)": Case({"type": "array", "uniqueItems": False}, ([1, 1],), (1,)),
    "properties": Case(obj(a={"type": "integer"}), ({}, {"a": 1}), ({"a": "x"},)),
    "required": Case(
        {**obj(a={}, b={"type": "null"}), "required": ["b"]},
        ({"b": None}, {"a": 1, "b": None}),
        ({}, {"a": 1}),
    ),
    "required (not listed)": Case({"type": "object", "required": ["b"]}, ({"b": 1},), ({}, {"a": 1})),
    "additionalProperties": Case(
        {"type": "object", "additionalProperties": {"type": "integer"}}, ({}, {"x": 1}), ({"x": "y"},)
    ),
    "additionalProperties (false)": Case(
        {**obj(a={}), "additionalProperties": False}, ({}, {"a": 1}), ({"b": 1},)
    ),
    "patternProperties": Case(
        {
            "type": "object",
            "patternProperties": {"^a": {"type": "integer"}},
            "additionalProperties": False,
        },
        ({}, {"a1": 1}),
        ({"a1": "x"}, {"b": 1}),
    ),
    "minProperties": Case(
        {"type": "object", "additionalProperties": {"const": 1}, "minProperties": 1}, ({"a": 1},), ({},)
    ),
    "maxProperties": Case(
        {"type": "object", "additionalProperties": {"const": 1}, "maxProperties": 1},
        ({}, {"a": 1}),
        ({"a": 1, "b": 1},),
    ),
    "allOf": Case({"allOf": [{"type": "integer"}, {"minimum": 3}]}, (3, 40), (2, "a")),
    "anyOf": Case({"anyOf": [{"type": "integer"}, {"const": "a"}]}, (1, "a"), ("b", None)),
    "oneOf (of other types)": Case({"oneOf": [{"type": "integer"}, {"type": "null"}]}, (1, None), ("a",)),
    "oneOf (told apart by a constant)": Case(
        UNION, ({"kind": "a", "x": 1}, {"kind": "b", "y": None}), ({"kind": "c"}, {"kind": "a", "x": "y"}, {})
    ),
    "$ref": Case({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}, (1,), ("a",)),
    "$ref (recursive)": Case(TREE, ({"next": None}, {"next": {"next": None}}), ({}, {"next": 1})),
    "$anchor": Case({"$ref": "#x", "$defs": {"a": {"$anchor": "x", "type": "integer"}}}, (1,), ("a",)),
    "definitions": Case({"$ref": "#/definitions/a", "definitions": {"a": {"type": "integer"}}}, (1,), ("a",)),
    "annotations": Case(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": "https://example.com/x",
            "title": "x",
            "description": "y",
            "default": 1,
            "examples": [1],
            "deprecated": True,
            "$comment": "z",
            "type": "integer",
        },
        (1,),
        ("a",),
    ),
    "true": Case(True, (1, "a", [], {"a": None}), ()),
}
REFUSED: dict[str, tuple[Any, str]] = {
    "contains": ({"type": "array", "contains": {"type": "integer"}}, "contains"),
    "minContains": ({"type": "array", "minContains": 2}, "minContains"),
    "uniqueItems": ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    "propertyNames": ({"type": "object", "propertyNames": {"pattern": "^a"}}, "propertyNames"),
    "dependentRequired": ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    "dependentSchemas": ({"type": "object", "dependentSchemas": {"a": {}}}, "dependentSchemas"),
    "unevaluatedProperties": ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
    "unevaluatedItems": ({"type": "array", "unevaluatedItems": False}, "unevaluatedItems"),
    "not": (obj(a={"not": {"type": "integer"}}), "not"),
    "if": ({"if": {"type": "integer"}, "then": {"minimum": 3}}, "if"),
    "$dynamicRef": ({"$dynamicRef": "#x", "$dynamicAnchor": "x"}, "dynamicRef"),
    "$ref (elsewhere)": ({"$ref": "https://example.com/x.json"}, "https://example.com/x.json"),
    "oneOf (overlapping)": ({"oneOf": [{"type": "integer"}, {"minimum": 3}]}, "oneOf"),
    "format (others)": ({"type": "string", "format": "regex"}, "format: regex"),
    "pattern (looking around)": ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
    "exclusiveMaximum (draft 4)": ({"type": "integer", "exclusiveMaximum": True}, "exclusiveMaximum"),
    "false": (False, "false"),
}


def grammar(schema: Any) -> str:
    return structured.checked(Constraint("json_schema", json.dumps(schema), "the.field"))


def accepts(grammar: str, value: Any) -> bool:
    matcher = LLMatcher(BYTES, grammar)
    tokens = BYTES.tokenize_str(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


@pytest.mark.parametrize("keyword", SUPPORTED)
def test_what_is_supported_lets_the_right_values_through_and_stops_the_wrong_ones(keyword: str) -> None:
    case = SUPPORTED[keyword]
    validator = Draft202012Validator(case.schema, format_checker=CHECKER)
    made = grammar(case.schema)
    for value in case.good:
        assert validator.is_valid(value), "the corpus is wrong"
        assert accepts(made, value), value
    for value in case.bad:
        assert not accepts(made, value), value
        if not keyword.startswith("format"):  # of formats `jsonschema` checks only some
            assert not validator.is_valid(value), "the corpus is wrong"


@pytest.mark.parametrize("keyword", REFUSED)
def test_what_is_not_supported_is_refused_by_its_name(keyword: str) -> None:
    schema, named = REFUSED[keyword]
    with pytest.raises(BadRequest) as caught:
        grammar(schema)
    assert named in str(caught.value)
    assert (caught.value.info.param, caught.value.info.code) == ("the.field", "invalid_grammar")


def test_the_share_that_is_supported_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    words = {word.split(" ")[0] for word in (*SUPPORTED, *REFUSED)} - {"true", "false", "annotations"}
    partly = {word.split(" ")[0] for word in SUPPORTED} & words - {"uniqueItems"}
    with capsys.disabled():
        share = f"{len(SUPPORTED)} of {len(SUPPORTED) + len(REFUSED)} cases"
        print(
            f"\nJSON Schema: {share}, {len(partly)} of {len(words)} keywords; not: {sorted(words - partly)}"
        )
    assert len(partly) / len(words) > 0.7


SCALARS = st.sampled_from(
    [
        {"type": "integer", "minimum": -5, "maximum": 20},
        {"type": "number", "minimum": 0, "exclusiveMaximum": 2},
        {"type": "string", "maxLength": 4},
        {"type": "string", "pattern": "^[a-c]{1,3}$"},
        {"type": "string", "format": "date"},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["x", 1, None]},
        {"const": {"a": [1]}},
    ]
)


def arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda items, least, more: {
            "type": "array",
            "items": items,
            "minItems": least,
            "maxItems": least + more,
        },
        inner,
        st.integers(0, 2),
        st.integers(0, 2),
    )


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.dictionaries(st.sampled_from(["a", "b", 'q"', "ä"]), inner, max_size=3)
    return st.builds(
        lambda properties, few: {
            "type": "object",
            "properties": properties,
            "required": sorted(properties)[: few % 4],
            "additionalProperties": False,
        },
        names,
        st.integers(0, 3),
    )


SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: (
        arrays(inner)
        | objects(inner)
        | st.lists(inner, min_size=1, max_size=2).map(lambda found: {"anyOf": found})
    ),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(SCHEMAS, st.integers(0, 2**32))
def test_whatever_a_random_walk_writes_matches_the_schema(schema: Any, seed: int) -> None:
    dice, matcher, text = random.Random(seed), LLMatcher(BYTES, grammar(schema)), bytearray()
    while len(text) < 2000 and not matcher.is_stopped():
        mask = matcher.compute_bitmask()
        allowed = [token for token in range(256) if mask[token // 8] >> token % 8 & 1]
        if not allowed or (matcher.is_accepting() and dice.random() < 0.5):
            break
        blank = [token for token in allowed if token not in b" \n"]  # or it indents for ever
        token = dice.choice(blank or allowed)
        matcher.consume_tokens([token])
        text.append(token)
    if matcher.is_accepting():
        value = json.loads(text)
        assert Draft202012Validator(schema).is_valid(value), (schema, value)
    else:
        assert len(text) == 2000


def test_a_schema_keeps_its_meaning_when_it_is_put_into_other_words() -> None:
    assert prepared({"items": {"uniqueItems": False}}) == {"items": {}}
    assert prepared({"const": {"uniqueItems": False}}) == {"const": {"uniqueItems": False}}
    assert prepared({"properties": {"oneOf": {"type": "null"}}}) == {
        "properties": {"oneOf": {"type": "null"}}
    }
    overlapping = {"oneOf": [obj(kind=KIND["a"]), obj(kind=KIND["b"])]}
    assert prepared(overlapping) == overlapping, "without `required` an empty object matches both"


def test_nesting_is_bounded() -> None:
    deep: dict[str, Any] = {}
    for _ in range(MAX_DEPTH + 2):
        deep = {"items": deep}
    with pytest.raises(UnsupportedSchema, match="nested"):
        prepared(deep)
