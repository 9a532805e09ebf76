"""A chat that is bound to variables: which fields mean something beside `parrot`, and what its answer adds."""

from __future__ import annotations

import json

import msgspec
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from compat.openai import refusal, variables
from compat.openai.binding import Binding, Told
from compat.openai.chat import ChatRequest
from compat.openai.common import InvalidField, Usage
from compat.openai.encoder import Shown
from compat.openai.variables import BoundChatEncoder
from parrot import wire
from server.http.sse import frame
from tests.compat.deltas import HEAD, Step
from tests.golden.files import check_golden

TOLD = Told(session_id="sess_1", call_id="call_1", variable_id="var_1", name="story", state="pending")
HANDLED = {
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "model",
    "parrot",
    "request_id",
    "response_format",
    "service_tier",
    "stream",
    "stream_options",
}
WITHOUT_EFFECT = {
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "store",
    "user",
}
"""Here as in a chat without `parrot`."""


def bound(parrot: object = None, **fields: object) -> ChatRequest:
    body = {"messages": [{"role": "user", "content": "{{input:x}}"}], "parrot": parrot or {}}
    return msgspec.json.decode(json.dumps(body | fields), type=ChatRequest)


def test_no_field_is_dropped_in_silence() -> None:
    known = {*wire.Sampling.__struct_fields__} | HANDLED | WITHOUT_EFFECT | {*variables.ALONE}
    assert {*ChatRequest.__struct_fields__} <= known | {*refusal.GENERATION, *refusal.CHAT}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"nvext": {"agent_hints": {"osl": 5}}}, "nvext"),
        ({"prompt_logprobs": 0}, "prompt_logprobs"),
        ({"parrot": {"wait": 1e9}}, "parrot.wait"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "{{ output : x }}"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].tool_call_id"),
    ],
)
def test_what_means_nothing_beside_parrot_is_named(fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidField) as caught:
        variables.check(bound(**fields), 300.0)
    assert caught.value.param == param


def test_values_that_change_nothing_are_accepted() -> None:
    variables.check(
        bound(n=1, tools=[], tool_choice="none", add_generation_prompt=True, best_of=1, logprobs=False), 300.0
    )


@pytest.mark.parametrize(
    ("wait", "seconds"), [(None, None), (True, None), (False, 0.0), (0, 0.0), (2.5, 2.5)]
)
def test_a_wait_is_a_boolean_or_seconds(wait: bool | float | None, seconds: float | None) -> None:
    assert Binding(wait=wait).seconds == seconds


def test_the_answer_stands_where_the_next_message_would() -> None:
    assert variables.conversation(bound().messages) == [
        ("user", "{{input:x}}", None),
        ("assistant", "{{output:parrot_answer}}", None),
    ]


def test_an_answer_and_the_first_chunk_of_a_stream_say_what_they_are_bound_to() -> None:
    whole = BoundChatEncoder(HEAD, Shown(), TOLD)
    whole.ended(msgspec.structs.replace(TOLD, state="ready"), Usage(3, 2, 1))
    whole.collect(0, Step("x", finish_reason="stop"))
    answer = ChatCompletion.model_validate_json(whole.answer())
    assert answer.choices[0].message.content == "x"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 5
    assert answer.model_dump()["parrot"]["state"] == "ready"
    streamed = BoundChatEncoder(HEAD, Shown(), TOLD)
    first, second = (
        ChatCompletionChunk.model_validate_json(chunk).model_dump()
        for step in (Step("x"), Step("", finish_reason="stop"))
        for chunk in streamed.feed(0, step)
    )
    assert first["parrot"]["name"] == "story"
    assert "parrot" not in second


def test_a_bound_stream_is_byte_for_byte_as_recorded() -> None:
    making = BoundChatEncoder(HEAD, Shown(usage=True), TOLD)
    said = making.feed(0, Step("Once"))
    making.ended(msgspec.structs.replace(TOLD, state="ready"), Usage(3, 2, 1))
    said += making.feed(0, Step("", finish_reason="stop")) + making.end()
    check_golden("chat-parrot.sse", b"".join(map(frame, [*said, b"[DONE]"])))
