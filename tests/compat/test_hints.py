from __future__ import annotations

import json

import msgspec
import pytest

from compat.openai.common import GenerationFields, InvalidField
from compat.openai.hints import Hints, hints, served_tier


def request(**fields: object) -> GenerationFields:
    return msgspec.json.decode(json.dumps(fields), type=GenerationFields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Hints()),
        ({"session_id": "s"}, Hints(program="s")),
        ({"session_id": "s", "program_id": "p"}, Hints(program="p")),
        ({"service_tier": "flex"}, Hints(patient=True)),
        ({"service_tier": "priority"}, Hints()),
        ({"priority": 3}, Hints(patient=True, priority=3)),
        ({"priority": -3}, Hints(priority=-3)),
        ({"nvext": {"agent_hints": {"priority": 3, "osl": 7}}}, Hints(priority=-3, expected_tokens=7)),
        ({"nvext": {"agent_hints": {"priority": -3}}}, Hints(patient=True, priority=3)),
        ({"priority": 0, "nvext": {"agent_hints": {"priority": 9}}}, Hints()),
        ({"nvext": {"annotations": ["x"], "agent_hints": {"speculative_prefill": True}}}, Hints()),
        ({"nvext": {}}, Hints()),
        ({"cache_salt": "x"}, Hints(cache_salt="x")),
    ],
)
def test_what_clients_say_has_one_form(fields: dict[str, object], expected: Hints) -> None:
    assert hints(request(**fields)) == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"session_id": ""}, "session_id"),
        ({"program_id": "x" * 257}, "program_id"),
        ({"cache_salt": ""}, "cache_salt"),
        ({"service_tier": "gold"}, "service_tier"),
        ({"priority": 2**31}, "priority"),
        ({"nvext": {"agent_hints": {"priority": -(2**31)}}}, "nvext.agent_hints.priority"),
        ({"nvext": {"agent_hints": {"osl": 0}}}, "nvext.agent_hints.osl"),
    ],
)
def test_a_hint_out_of_range_is_named(fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidField) as caught:
        hints(request(**fields))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("asked", "served"),
    [(None, None), ("auto", "default"), ("default", "default"), ("fast", "default"), ("flex", "flex")],
)
def test_an_answer_says_the_tier_that_was_served(asked: str | None, served: str | None) -> None:
    assert served_tier(request(service_tier=asked)) == served
