"""Tools from the `openai` package against a real server: demanded calls work with a model that knows of none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.plain import post

COLOUR = {
    "type": "function",
    "function": {
        "name": "paint",
        "description": "Paint it.",
        "parameters": {
            "type": "object",
            "properties": {
                "colour": {"$ref": "#/$defs/colour"},
                "coats": {"type": "integer", "enum": [1, 2]},
            },
            "required": ["colour", "coats"],
            "additionalProperties": False,
            "$defs": {"colour": {"enum": ["red", "blue"]}},
        },
    },
}
REST = {"type": "function", "function": {"name": "rest"}}
NAMED = {"type": "function", "function": {"name": "paint"}}
HI = [{"role": "user", "content": "Paint the house."}]


def ask(client: OpenAI, **fields: Any) -> Any:
    body: dict[str, Any] = {"messages": HI, "tools": [COLOUR], "max_tokens": 600, "seed": 1} | fields
    return client.chat.completions.create(model=client.models.list().data[0].id, **body)


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_demanded_call_is_made_and_fits_its_schema(client: OpenAI, choice: Any) -> None:
    answer = ask(client, tool_choice=choice, parallel_tool_calls=False)
    (call,) = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "paint"
    arguments = json.loads(call.function.arguments)
    assert arguments["colour"] in ("red", "blue")
    assert arguments["coats"] in (1, 2)


def test_a_streamed_call_is_the_same_call(client: OpenAI) -> None:
    whole = ask(client, tool_choice=NAMED).choices[0].message.tool_calls[0].function
    name, arguments, reasons = "", "", []
    for chunk in ask(client, tool_choice=NAMED, stream=True):
        reasons.append(chunk.choices[0].finish_reason)
        for call in chunk.choices[0].delta.tool_calls or ():
            name += call.function.name or ""
            arguments += call.function.arguments
    assert (name, arguments) == (whole.name, whole.arguments)
    assert reasons[-1] == "tool_calls"


def test_of_several_tools_one_is_chosen(client: OpenAI) -> None:
    answer = ask(client, tools=[COLOUR, REST], tool_choice="required", parallel_tool_calls=False, n=4)
    names = {call.function.name for choice in answer.choices for call in choice.message.tool_calls or ()}
    assert names <= {"paint", "rest"}
    assert names


def test_results_go_back_as_messages(client: OpenAI) -> None:
    call = ask(client, tool_choice=NAMED).choices[0].message
    result = {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "done"}
    answer = ask(client, messages=[*HI, call, result], tool_choice="none", max_tokens=8)
    assert answer.choices[0].message.tool_calls is None


def test_auto_without_a_family_is_text(client: OpenAI) -> None:
    answer = ask(client, max_tokens=8)
    assert answer.choices[0].message.content
    assert answer.choices[0].message.tool_calls is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "sometimes", "tools": [COLOUR]}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": NAMED, "tools": [REST]}, "tool_choice.function.name"),
        (
            {"tool_choice": "required", "tools": [COLOUR], "response_format": {"type": "json_object"}},
            "tool_choice",
        ),
        (
            {
                "tool_choice": "required",
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}],
            },
            "tools",
        ),
    ],
)
def test_what_cannot_be_demanded_is_named(server_url: str, fields: dict[str, object], param: str) -> None:
    answer = post(f"{server_url}/v1/chat/completions", {"messages": HI, **fields})
    assert answer.status == 400, answer.body
    assert answer.json()["error"]["param"] == param
