"""What a request to Anthropic's API is as a chat, and which of its fields are refused by name."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from compat.anthropic import messages
from compat.anthropic.encoder import MessageEncoder, MessageHead
from compat.anthropic.messages import MessagesRequest, as_chat, field_of
from compat.openai import chat
from compat.openai.chat import ChatRequest, text_of
from compat.openai.common import InvalidField
from compat.openai.tools.fields import NamedTool
from tests.compat.written import WRITTEN

HI = {"role": "user", "content": "Hi"}
ADD = {"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}
USE = {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 2**70}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "2"}


def request(**fields: object) -> MessagesRequest:
    return msgspec.json.decode(json.dumps({"max_tokens": 5, "messages": [HI]} | fields), type=MessagesRequest)


def asked(**fields: object) -> ChatRequest:
    body = request(**fields)
    messages.check(body)
    found = as_chat(body)
    chat.check(found)
    chat.check_messages(found.messages)
    return found


def refused(**fields: object) -> InvalidField:
    with pytest.raises(InvalidField) as caught:
        asked(**fields)
    return caught.value


def conversation(*given: object, **fields: object) -> list[tuple[str, str]]:
    return [(message.role, text_of(message)) for message in asked(messages=given, **fields).messages]


def user(*content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


def assistant(*content: object) -> dict[str, object]:
    return {"role": "assistant", "content": content}


def text(text: str) -> dict[str, object]:
    return {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}


@pytest.mark.parametrize("system", ["Rhyme.", [text("Rhyme.")]])
def test_the_system_prompt_comes_first(system: object) -> None:
    assert conversation(HI, system=system) == [("system", "Rhyme."), ("user", "Hi")]


def test_content_is_a_text_or_blocks() -> None:
    assert conversation(user(text("a"), text("b")), {"role": "system", "content": "s"}, HI) == [
        ("user", "a\nb"),
        ("system", "s"),
        ("user", "Hi"),
    ]


def test_an_assistant_s_text_thoughts_and_calls_are_one_message() -> None:
    thought = {"type": "thinking", "thinking": "So.", "signature": ""}
    hidden = {"type": "redacted_thinking", "data": "xyz"}
    _, said, result = asked(
        messages=[HI, assistant(thought, hidden, text("Well."), USE), user(RESULT)]
    ).messages
    assert (said.role, text_of(said), said.reasoning_content) == ("assistant", "Well.", "So.")
    assert said.tool_calls is not None
    (call,) = said.tool_calls
    assert (call.id, json.loads(call.function.arguments)) == ("t1", {"a": 2**70})
    assert (result.role, result.name, result.tool_call_id, result.content) == ("tool", "add", "t1", "2")


def test_results_and_texts_keep_their_order() -> None:
    failed = RESULT | {"is_error": True, "content": [text("lost")]}
    assert conversation(HI, assistant(USE), user(text("a"), RESULT, failed, text("b"), text("c"))) == [
        ("user", "Hi"),
        ("assistant", ""),
        ("user", "a"),
        ("tool", "2"),
        ("tool", "Error: lost"),
        ("user", "b\nc"),
    ]


@pytest.mark.parametrize("content", [None, "", []])
def test_a_result_may_be_empty(content: object) -> None:
    assert conversation(HI, assistant(USE), user(RESULT | {"content": content}))[-1] == ("tool", "")


def test_a_last_message_of_the_assistant_is_continued() -> None:
    prefilled = asked(messages=[HI, {"role": "assistant", "content": "Once"}])
    assert (prefilled.continue_final_message, prefilled.add_generation_prompt) == (True, False)
    plain = asked()
    assert (plain.continue_final_message, plain.add_generation_prompt) == (False, True)


def test_fields_have_their_chat_s_meaning() -> None:
    found = asked(
        stop_sequences=["x"],
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        stream=True,
        metadata={"user_id": "me"},
        service_tier="standard_only",
        seed=7,
        output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}, "effort": "high"},
    )
    assert (found.output_limit, found.stop, found.temperature, found.top_p) == (5, ["x"], 0.5, 0.9)
    assert (found.top_k, found.stream, found.user, found.service_tier) == (3, True, "me", "default")
    assert (found.seed, found.reasoning_effort) == (7, "high")
    assert found.response_format == {"type": "json_schema", "schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("choice", "expected", "parallel"),
    [
        (None, None, None),
        ({"type": "auto"}, "auto", None),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", False),
        ({"type": "tool", "name": "add"}, "add", None),
        ({"type": "none"}, "none", None),
    ],
)
def test_a_tool_is_chosen(choice: object, expected: str | None, parallel: bool | None) -> None:
    found = asked(tools=[ADD], tool_choice=choice)
    chosen = found.tool_choice
    assert (chosen.function.name if isinstance(chosen, NamedTool) else chosen) == expected
    assert found.parallel_tool_calls is parallel


@pytest.mark.parametrize(
    ("thinking", "effort", "shown"),
    [
        (None, None, True),
        ({"type": "adaptive"}, None, True),
        ({"type": "adaptive", "display": "omitted"}, None, False),
        ({"type": "disabled"}, "none", True),
    ],
)
def test_thinking_is_the_template_s(thinking: object, effort: str | None, shown: bool) -> None:
    found = asked(thinking=thinking)
    assert (found.reasoning_effort, found.include_reasoning) == (effort, shown)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [user({"type": "image", "source": {}})]}, "messages[0].content[0].type"),
        ({"messages": [user({"type": "text"})]}, "messages[0].content[0].text"),
        ({"messages": [user(RESULT)]}, "messages[0].content[0].tool_use_id"),
        ({"messages": [HI, assistant(USE)]}, "messages[1].content"),
        ({"messages": [HI, assistant({"type": "tool_use", "name": "f"}), HI]}, "messages[1].content[0].id"),
        ({"messages": [HI, assistant({"type": "image"}), HI]}, "messages[1].content[0].type"),
        (
            {"messages": [HI, assistant(USE), user(RESULT | {"content": [{"type": "image"}]})]},
            "messages[2].content[0].content[0].type",
        ),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [ADD | {"defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [ADD], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking.type"),
        ({"container": "c"}, "container"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses"}]}}, "context_management"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"speed": "fast"}, "speed"),
        ({"diagnostics": {}}, "diagnostics"),
        ({"inference_geo": "us"}, "inference_geo"),
    ],
)
def test_what_cannot_be_served_is_named(fields: dict[str, object], param: str) -> None:
    assert refused(**fields).param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"cache_control": {"type": "ephemeral"}},
        {"context_management": {"edits": []}},
        {"mcp_servers": []},
        {"speed": "standard"},
        {"metadata": {}},
        {"service_tier": "auto"},
        {"tools": []},
        {"made_up": 1},
        {"tools": [ADD | {"type": "custom", "cache_control": {"type": "ephemeral"}, "input_examples": []}]},
    ],
)
def test_what_asks_for_nothing_is_accepted(fields: dict[str, object]) -> None:
    asked(**fields)


@pytest.mark.parametrize(
    "field", [name for name in MessagesRequest.__struct_fields__ if name not in ("messages", "max_tokens")]
)
def test_null_is_absent(field: str) -> None:
    assert request(**{field: None}) == request()


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("stop", "stop_sequences"),
        ("max_tokens", "max_tokens"),
        ("response_format.schema", "output_config.format.schema"),
        ("reasoning_effort", "output_config.effort"),
        ("tools[3].function.parameters", "tools[3].input_schema"),
        ("tools[3].function.name", "tools[3].name"),
        ("tool_choice.function.name", "tool_choice.name"),
    ],
)
def test_a_chat_s_error_is_told_in_anthropic_s_names(param: str, expected: str) -> None:
    assert field_of(param) == expected


@pytest.mark.parametrize("name", WRITTEN)
def test_an_answer_of_ours_may_come_back_as_history(name: str) -> None:
    coder = MessageEncoder(MessageHead("0f", "m", 5), WRITTEN[name].blocks())
    for step in WRITTEN[name].steps:
        coder.collect(step)
    answer: dict[str, Any] = json.loads(coder.answer())
    uses = [block["id"] for block in answer["content"] if block["type"] == "tool_use"]
    results = [RESULT | {"tool_use_id": id} for id in uses]
    found = conversation(
        HI, {"role": "assistant", "content": answer["content"]}, user(*results, text("Go on."))
    )
    assert [role for role, _ in found] == ["user", "assistant", *("tool" for _ in uses), "user"]
