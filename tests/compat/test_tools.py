"""Calls in outputs: every family's way of writing them, however the text is cut, and what a client is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from compat.openai.encoder import Prompt, Shown
from compat.openai.tools.calls import Arguments, CallBegun, Event, Text
from compat.openai.tools.encoder import ToolChatEncoder
from compat.openai.tools.fields import Function, NamedFunction, NamedTool, Tool, ToolChoice, demanded
from compat.openai.tools.parsers import PARSERS, Format, Listed, Named, format_of
from server.http.sse import frame
from tests.compat.deltas import HEAD, Step, bytes_of
from tests.golden.files import check_golden

ONE = '{"name": "add", "arguments": {"a": 1, "s": "}\\"<"}}'
TWO = '{"name": "stop", "arguments": {}}'
CALLS = [("add", {"a": 1, "s": '}"<'}), ("stop", {})]
WRITTEN: dict[Format, str] = {
    "hermes": f"Well.<tool_call>\n{ONE}\n</tool_call>\n<tool_call>{TWO}</tool_call>",
    "mistral": f"Well.[TOOL_CALLS] [{ONE}, {TWO}]",
    "llama3": f"<|python_tag|>{ONE.replace('arguments', 'parameters')}; {TWO}",
}


def read(events: list[Event]) -> tuple[str, list[tuple[str, object]]]:
    text = ""
    names: list[str] = []
    arguments: dict[int, str] = {}
    for event in events:
        match event:
            case Text(part):
                text += part
            case CallBegun(index, name):
                assert index == len(names)
                names.append(name)
                arguments[index] = ""
            case Arguments(index, part):
                arguments[index] += part
    return text, [(name, json.loads(arguments[index])) for index, name in enumerate(names)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("format", PARSERS)
def test_calls_are_found_however_the_text_is_cut(format: Format, size: int) -> None:
    parser, text = PARSERS[format](), WRITTEN[format]
    events = [event for at in range(0, len(text), size) for event in parser.push(text[at : at + size])]
    said, calls = read(events + parser.finish())
    assert calls == CALLS
    assert said == ("" if format == "llama3" else "Well.")


@pytest.mark.parametrize("text", ["plain", "a < b <tool", "[TOOL", "<|pyth", " ", "half <tool_call"])
@pytest.mark.parametrize("format", PARSERS)
def test_what_is_no_call_is_text(format: Format, text: str) -> None:
    parser = PARSERS[format]()
    events = [event for character in text for event in parser.push(character)] + parser.finish()
    assert read(events) == (text, [])


def test_arguments_come_piece_by_piece() -> None:
    parser = Listed()
    assert parser.push('[{"name": "f", "argum') == [CallBegun(0, "f")]
    assert parser.push('ents": {"a') == [Arguments(0, '{"a')]
    assert parser.push('": 1}') == [Arguments(0, '": 1}')]
    assert parser.push("}]") == []


def test_arguments_before_their_name_wait_for_it() -> None:
    parser = Listed()
    assert parser.push('{"arguments": {"a": 1}, ') == []
    assert parser.push('"name": "f"}') == [CallBegun(0, "f"), Arguments(0, '{"a": 1}')]


@pytest.mark.parametrize("text", ["{", "[[[", '{"name": 5}', '{"name"}', "{}}}{{", '{"a" "b":', '{":,}'])
def test_no_text_breaks_a_reader(text: str) -> None:
    assert not any(isinstance(event, CallBegun) for event in Listed().push(text * 3))


@pytest.mark.parametrize(
    ("template", "format"),
    [
        ("x <tool_call> y", "hermes"),
        ("[TOOL_CALLS]", "mistral"),
        ("<|python_tag|>", "llama3"),
        ("plain", None),
    ],
)
def test_the_template_says_which_family_it_is(template: str, format: Format | None) -> None:
    assert format_of(template) == format


def steps(text: str, size: int = 9) -> list[Step]:
    parts = [Step(text[at : at + size], (1,)) for at in range(0, len(text), size)]
    return [*parts, Step(finish_reason="stop")]


def encoder(parser: object = PARSERS["hermes"], most: int | None = None) -> ToolChatEncoder:
    return ToolChatEncoder(HEAD, [Prompt((1, 2))], 1, Shown(usage=True), bytes_of, parser, most)  # type: ignore[arg-type]


def test_streams_of_calls_are_byte_for_byte_as_recorded() -> None:
    coder = encoder()
    chunks = [chunk for step in steps(WRITTEN["hermes"]) for chunk in coder.feed(0, step)] + coder.end()
    for chunk in chunks:
        ChatCompletionChunk.model_validate_json(chunk)
    check_golden("chat-tools.sse", b"".join(map(frame, [*chunks, b"[DONE]"])))


def test_answers_of_calls_are_byte_for_byte_as_recorded() -> None:
    coder = encoder()
    for step in steps(WRITTEN["hermes"]):
        coder.collect(0, step)
    answer = ChatCompletion.model_validate_json(coder.answer())
    assert answer.choices[0].finish_reason == "tool_calls"
    check_golden("chat-tools.json", coder.answer())


def test_one_call_is_enough_when_they_may_not_be_parallel() -> None:
    coder = encoder(most=1)
    for step in steps(WRITTEN["hermes"]):
        coder.collect(0, step)
    (call,) = json.loads(coder.answer())["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "add"


@pytest.mark.parametrize("choice", ["required", NamedTool(NamedFunction("f"))])
def test_demanded_arguments_have_no_properties_that_were_not_named(choice: ToolChoice) -> None:
    inner = {"type": "object", "properties": {"properties": {"type": "string"}}}
    open_ = {"type": "object", "properties": {}, "additionalProperties": True}
    tool = Tool(function=Function("f", parameters={"properties": {"a": inner, "b": open_}}))
    constraint = demanded([tool], choice, parallel=False)
    assert constraint is not None
    line = next(line for line in constraint.text.splitlines() if "%json" in line)
    schema = json.loads(line.partition("%json ")[2])
    assert schema["additionalProperties"] is False
    assert schema["properties"] == {"a": inner | {"additionalProperties": False}, "b": open_}


def test_parts_of_one_object_stay_open() -> None:
    parts: dict[str, Any] = {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}
    constraint = demanded([Tool(function=Function("f", parameters=parts))], "required", parallel=False)
    assert constraint is not None
    assert "additionalProperties" not in constraint.text


def test_a_named_function_s_output_is_its_arguments() -> None:
    coder = encoder(lambda: Named("f"))
    chunks = [json.loads(chunk) for step in steps('{"a": 1}', 4) for chunk in coder.feed(0, step)]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a"'}
    assert deltas[1]["tool_calls"] == [{"index": 0, "function": {"arguments": ": 1}"}}]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
