"""What a request to the Responses API is as a chat, and which of its fields are refused by name."""

from __future__ import annotations

import json

import msgspec
import pytest

from compat.openai import chat, responses
from compat.openai.chat import ChatRequest, text_of
from compat.openai.common import InvalidField
from compat.openai.responses import ResponseRequest, as_chat, field_of
from compat.openai.responses_encoder import ResponseEncoder, ResponseHead
from compat.openai.responses_items import MAX_ITEMS, Item, listed
from tests.compat.deltas import bytes_of
from tests.compat.written import WRITTEN

ADD = {"type": "function", "name": "add", "description": "Adds.", "parameters": {"type": "object"}}
CALL = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "2"}


def request(**fields: object) -> ResponseRequest:
    return msgspec.json.decode(json.dumps({"input": "Hi"} | fields), type=ResponseRequest)


def asked(**fields: object) -> ChatRequest:
    body = request(**fields)
    responses.check(body)
    found = as_chat(body)
    chat.check(found)
    chat.check_messages(found.messages)
    return found


def conversation(*items: object, **fields: object) -> list[tuple[str, str]]:
    return [(message.role, text_of(message)) for message in asked(input=items, **fields).messages]


def refused(**fields: object) -> InvalidField:
    with pytest.raises(InvalidField) as caught:
        asked(**fields)
    return caught.value


def test_a_text_is_a_message_of_the_user_after_the_instructions() -> None:
    found = asked(instructions="Be brief.").messages
    assert [(message.role, message.content) for message in found] == [("system", "Be brief."), ("user", "Hi")]


def test_messages_have_texts_or_parts_with_or_without_a_type() -> None:
    assert conversation(
        {"role": "developer", "content": "Rhyme."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": "Ho", "annotations": []},
                {"type": "refusal", "refusal": "No."},
            ],
        },
    ) == [("developer", "Rhyme."), ("user", "Hi"), ("assistant", "Ho\nNo.")]


def test_calls_belong_to_the_message_before_them_and_results_have_their_name() -> None:
    second = CALL | {"call_id": "c2"}
    found = asked(input=[{"role": "assistant", "content": "Well."}, CALL, second, RESULT]).messages
    assert [message.role for message in found] == ["assistant", "tool"]
    assert [call.id for call in found[0].tool_calls or ()] == ["c1", "c2"]
    assert (found[1].name, found[1].tool_call_id, found[1].content) == ("add", "c1", "2")


def test_a_long_row_of_calls_is_one_message_and_the_input_stays_as_it_was() -> None:
    body = request(input=[{"role": "assistant", "content": "Well."}, *[CALL] * (MAX_ITEMS - 1)])
    for _ in range(2):
        (message,) = as_chat(body).messages
        assert len(message.tool_calls or ()) == MAX_ITEMS - 1


def test_a_conversation_has_a_bounded_number_of_items() -> None:
    assert refused(input=[CALL] * (MAX_ITEMS + 1)).param == "input"
    with pytest.raises(InvalidField, match="at most"):
        as_chat(request(), [Item(role="user", content="Hi")] * MAX_ITEMS)


def test_a_call_alone_is_a_message_and_a_result_may_have_parts() -> None:
    parts = [{"type": "input_text", "text": "2"}, {"type": "input_text", "text": "3"}]
    found = asked(input=[CALL, RESULT | {"output": parts}]).messages
    assert [(message.role, text_of(message)) for message in found] == [("assistant", ""), ("tool", "2\n3")]


def test_a_thought_goes_with_what_follows_it() -> None:
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "So."}]}
    summary = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
    said = {"role": "assistant", "content": "Four."}
    found = asked(input=[thought, said, summary, CALL, RESULT]).messages
    assert [message.reasoning_content for message in found] == ["So.", "Hm.", None]
    assert [message.role for message in found] == ["assistant", "assistant", "tool"]


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"role": "wizard", "content": "x"}, "input[1].role"),
        ({"type": "message", "content": "x"}, "input[1].role"),
        ({"role": "user"}, "input[1].content"),
        (
            {"role": "user", "content": [{"type": "input_image", "image_url": "x"}]},
            "input[1].content[0].type",
        ),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input[1].content[0].text"),
        ({"type": "item_reference", "id": "msg_1"}, "input[1].type"),
        ({"type": "computer_call_output", "call_id": "x"}, "input[1].type"),
        ({"type": "function_call", "name": "f", "arguments": "{}"}, "input[1].call_id"),
        ({"type": "function_call", "call_id": "c", "arguments": "{}"}, "input[1].name"),
        ({"type": "function_call", "call_id": "c", "name": "f"}, "input[1].arguments"),
        (RESULT, "input[1].call_id"),
    ],
)
def test_an_item_that_cannot_be_served_is_named(item: dict[str, object], param: str) -> None:
    assert refused(input=[{"role": "user", "content": "Hi"}, item]).param == param


def test_a_result_without_an_output_is_named() -> None:
    assert refused(input=[CALL, {"type": "function_call_output", "call_id": "c1"}]).param == "input[1].output"


def test_fields_have_their_chat_s_meaning() -> None:
    found = asked(
        max_output_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        seed=4,
        stop=["x"],
        parallel_tool_calls=False,
        service_tier="flex",
        cache_salt="s",
        user="me",
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}},
    )
    assert (found.output_limit, found.temperature, found.top_p, found.top_k) == (7, 0.5, 0.9, 3)
    assert (found.seed, found.stop, found.parallel_tool_calls, found.service_tier) == (
        4,
        ["x"],
        False,
        "flex",
    )
    assert (found.cache_salt, found.reasoning_effort) == ("s", "low")
    assert found.response_format["schema"] == {"type": "object"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (None, None)),
        ({"top_logprobs": 0}, (None, None)),
        ({"top_logprobs": 3}, (True, 3)),
        ({"include": ["message.output_text.logprobs"]}, (True, None)),
        ({"include": ["reasoning.encrypted_content"]}, (None, None)),
    ],
)
def test_logprobs_are_asked_for_by_number_or_by_name(
    fields: dict[str, object], expected: tuple[bool | None, int | None]
) -> None:
    found = asked(**fields)
    assert (found.logprobs, found.top_logprobs) == expected


@pytest.mark.parametrize(
    ("choice", "names", "expected"),
    [
        (None, ["add", "stop"], None),
        ("required", ["add", "stop"], "required"),
        ({"type": "function", "name": "stop"}, ["add", "stop"], "stop"),
        ({"type": "allowed_tools", "tools": [{"type": "function", "name": "add"}]}, ["add"], "auto"),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "stop"}]},
            ["stop"],
            "required",
        ),
    ],
)
def test_tools_are_flat_and_may_be_limited(choice: object, names: list[str], expected: str | None) -> None:
    found = asked(tools=[ADD, ADD | {"name": "stop"}], tool_choice=choice)
    assert [tool.function.name for tool in found.tools or ()] == names
    chosen = found.tool_choice
    assert (chosen if chosen is None or isinstance(chosen, str) else chosen.function.name) == expected
    assert found.tools is not None
    assert found.tools[0].function.parameters == {"type": "object"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"truncation": "auto"}, "truncation"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"max_tool_calls": 0}, "max_tool_calls"),
        ({"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
        ({"metadata": {"key": "x" * 513}}, "metadata.key"),
        ({"background": True, "store": False}, "store"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [ADD], "tool_choice": {"type": "mcp", "server_label": "x"}}, "tool_choice.type"),
        ({"tools": [ADD], "tool_choice": {"type": "function"}}, "tool_choice.name"),
        (
            {
                "tools": [ADD],
                "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "x"}]},
            },
            "tool_choice.tools[0].name",
        ),
    ],
)
def test_what_cannot_be_served_is_named(fields: dict[str, object], param: str) -> None:
    assert refused(**fields).param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"truncation": "disabled"},
        {"text": {"format": {"type": "text"}, "verbosity": "medium"}},
        {"reasoning": {"effort": None, "summary": "auto"}},
        {"include": []},
        {"metadata": {}},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
        {"background": False, "store": False},
        {"max_tool_calls": 3},
        {"made_up": {"x": 1}},
        {"previous_response_id": None},
    ],
)
def test_what_asks_for_nothing_is_accepted(fields: dict[str, object]) -> None:
    asked(**fields)


@pytest.mark.parametrize("field", [name for name in ResponseRequest.__struct_fields__ if name != "input"])
def test_null_is_absent(field: str) -> None:
    assert request(**{field: None}) == request()


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("messages", "input"),
        ("max_tokens", "max_output_tokens"),
        ("response_format.schema", "text.format.schema"),
        ("response_format", "text.format"),
        ("reasoning_effort", "reasoning.effort"),
        ("tools[3].function.parameters", "tools[3].parameters"),
        ("tool_choice.function.name", "tool_choice.name"),
        ("temperature", "temperature"),
    ],
)
def test_a_chat_s_error_is_told_in_our_names(param: str, expected: str) -> None:
    assert field_of(param) == expected


@pytest.mark.parametrize("name", WRITTEN)
def test_an_answer_of_ours_is_input_of_the_next_request(name: str) -> None:
    coder = ResponseEncoder(ResponseHead("0f", 0, "m", 5, {}), WRITTEN[name].blocks(), bytes_of=bytes_of)
    for step in WRITTEN[name].steps:
        coder.collect(step)
    items = msgspec.json.decode(coder.turn(), type=list[Item])
    found = as_chat(request(), items).messages
    chat.check_messages(found)
    blocks = [block for block in coder._blocks.blocks if block.kind == "call"]
    assert [call.function.name for message in found for call in message.tool_calls or ()] == [
        block.name for block in blocks
    ]
    assert found[-1].role == "user"


def test_items_are_listed_in_openai_s_shapes_with_an_id_each() -> None:
    items = request(
        input=[
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Ho"},
            CALL,
            RESULT,
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
        ]
    ).input
    assert isinstance(items, list)
    found = json.loads(listed(items, "s"))
    assert [item["id"] for item in found] == ["msg_s_0", "msg_s_1", "fc_s_2", "fco_s_3", "rs_s_4"]
    assert [item["type"] for item in found] == [
        "message",
        "message",
        "function_call",
        "function_call_output",
        "reasoning",
    ]
    assert found[0]["content"] == [{"type": "input_text", "text": "Hi"}]
    assert found[1]["content"][0]["type"] == "output_text"
    again = msgspec.json.decode(msgspec.json.encode(found), type=list[Item])
    assert [message.role for message in as_chat(request(), again).messages] == [
        "user",
        "assistant",
        "tool",
        "user",
    ]


def test_a_conversation_is_a_session_unless_the_client_names_one() -> None:
    assert as_chat(request(), (), "resp_1").session_id == "resp_1"
    assert as_chat(request(session_id="mine"), (), "resp_1").session_id == "mine"
    assert as_chat(request()).session_id is None


def test_an_item_of_nothing_ends_the_decoding() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"needs a type, or a role - at `\$.input\[1\]`"):
        request(input=[{"role": "user", "content": "x"}, {}])
