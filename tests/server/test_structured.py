"""Which grammars are taken, and what is said about the others."""

from __future__ import annotations

import pytest

from compat.openai.structured import Constraint, Kind
from engine.types import SamplingParams
from server import structured
from server.errors import BadRequest, TooLarge
from server.generation import GenerationParams

PARAMS = GenerationParams(SamplingParams(max_tokens=5, seed=0))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("json_schema", '{"type":"object"}'),
        (
            "json_schema",
            '{"type":"object","properties":{"a":{"$ref":"#/$defs/b"}},"$defs":{"b":{"type":"null"}}}',
        ),
        ("regex", r"\d{3}-\d{4}"),
        ("choice", '["yes","no \\"quoted\\"","naïve","\\n"]'),
        ("grammar", 'start: "a" | "b"'),
        ("grammar", 'root ::= "a" | "b"'),
    ],
)
async def test_what_can_be_followed_becomes_a_grammar(kind: Kind, text: str) -> None:
    assert await structured.grammar(Constraint(kind, text, "f"))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("json_schema", '{"type":"nope"}'),
        ("json_schema", '{"type":"object","not":{}}'),
        ("json_schema", '{"$ref":"https://example.com/schema.json"}'),
        ("regex", "("),
        ("regex", r"(?=look)ahead"),
        ("grammar", "start: missing"),
        ("grammar", "("),
    ],
)
async def test_what_cannot_is_refused_by_name(kind: Kind, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        await structured.grammar(Constraint(kind, text, "the.field"))
    assert (caught.value.info.param, caught.value.info.code) == ("the.field", "invalid_grammar")


async def test_a_long_one_is_checked_on_a_thread_and_a_longer_one_not_at_all() -> None:
    assert await structured.grammar(Constraint("regex", "a" * 5_000, "f"))
    with pytest.raises(TooLarge):
        await structured.grammar(Constraint("regex", "a" * 70_000, "f"))


@pytest.mark.parametrize("fields", [{"ignore_eos": True}, {"min_tokens": 3}])
def test_a_grammar_alone_says_where_the_output_ends(fields: dict[str, int]) -> None:
    (name,) = fields
    params = GenerationParams(SamplingParams(max_tokens=5, seed=0, **fields))  # type: ignore[arg-type]
    assert structured.constrained(params, None) is params
    with pytest.raises(BadRequest) as caught:
        structured.constrained(params, "g", "sampling.")
    assert caught.value.info.param == f"sampling.{name}"


def test_the_grammar_goes_to_the_engine() -> None:
    assert structured.constrained(PARAMS, "g").sampling.grammar == "g"
