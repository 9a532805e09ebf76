"""Byte-exact streams of Anthropic's messages, and that the `anthropic` package reads them to the end."""

from __future__ import annotations

import json

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from compat.anthropic.encoder import MessageEncoder, MessageHead
from compat.anthropic.errors import error_body
from compat.blocks import TypedEvent
from server.http.sse import frames
from tests.compat.deltas import Step
from tests.compat.written import WRITTEN, Written, steps
from tests.golden.files import check_golden

EVENTS: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
REASONS = {
    "text": "stop_sequence",
    "stopped": "stop_sequence",
    "nothing": "end_turn",
    "thought": "end_turn",
    "hidden-thought": "end_turn",
    "cut": "max_tokens",
    "cut-call": "max_tokens",
    "cut-thought": "max_tokens",
    "calls": "tool_use",
    "one-call": "tool_use",
    "named-call": "tool_use",
    "thought-and-call": "tool_use",
}


def encoder(written: Written) -> MessageEncoder:
    return MessageEncoder(MessageHead("0f", "org/model", 5), written.blocks())


def stream(coder: MessageEncoder, written: Written) -> list[TypedEvent]:
    return [*(event for step in written.steps for event in coder.feed(step)), *coder.end()]


def answer(written: Written) -> Message:
    coder = encoder(written)
    for step in written.steps:
        coder.collect(step)
    return Message.model_validate_json(coder.answer())


@pytest.mark.parametrize("name", WRITTEN)
def test_streams_are_byte_for_byte_as_recorded(name: str) -> None:
    check_golden(f"messages-{name}.sse", frames(stream(encoder(WRITTEN[name]), WRITTEN[name])))


@pytest.mark.parametrize("name", WRITTEN)
def test_the_anthropic_package_builds_the_same_message_from_the_pieces(name: str) -> None:
    snapshot = None
    buffers: dict[int, bytes] = {}
    for kind, data in stream(encoder(WRITTEN[name]), WRITTEN[name]):
        event = EVENTS.validate_json(data)
        assert event.type == kind
        snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)
    assert snapshot is not None
    built, whole = snapshot.to_dict(), answer(WRITTEN[name]).to_dict()
    if name == "cut-call":  # the package reads as much of the arguments as there is
        assert built["content"][0]["input"] == {"a": [1, 2]}  # type: ignore[index]
        assert whole["content"][0].pop("input") == {}  # type: ignore[index]
        built["content"][0].pop("input")  # type: ignore[index]
    assert {**built, "stop_details": None} == {**whole, "stop_details": None}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_reason_says_why_it_stopped(name: str) -> None:
    message = answer(WRITTEN[name])
    assert message.stop_reason == REASONS[name]
    assert message.stop_sequence == ("END" if message.stop_reason == "stop_sequence" else None)


def test_usage_counts_the_cached_part_of_a_prompt_apart() -> None:
    usage = answer(WRITTEN["text"]).usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (1, 4, 4)
    details = answer(WRITTEN["thought"]).usage.output_tokens_details
    assert details is not None
    assert 0 < details.thinking_tokens < answer(WRITTEN["thought"]).usage.output_tokens


@pytest.mark.parametrize("arguments", ["[1]", "{", "5", '"{\\"a\\": 1}"', "{}", "", "[" * 5000])
def test_a_call_s_input_is_an_object_whatever_was_written(arguments: str) -> None:
    call = '{"name": "f", "arguments": ' + arguments + "}"
    written = Written(steps(f"<tool_call>{call}</tool_call>"), WRITTEN["calls"].parser)
    message = json.loads(_collected(written))
    inputs = [block["input"] for block in message["content"] if block["type"] == "tool_use"]
    assert inputs == [{"a": 1}] if "a" in arguments else all(value == {} for value in inputs)


def _collected(written: Written) -> bytes:
    coder = encoder(written)
    for step in written.steps:
        coder.collect(step)
    return coder.answer()


def test_the_first_event_does_not_tell_what_the_first_step_ended_with() -> None:
    coder = encoder(WRITTEN["text"])
    start = json.loads(coder.feed(Step("x", (1,), finish_reason="length"))[0].data)["message"]
    assert (start["content"], start["stop_reason"], start["usage"]["output_tokens"]) == ([], None, 0)


@pytest.mark.parametrize(
    ("status", "type"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (409, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_errors_have_anthropic_s_shape_and_name_the_field(status: int, type: str) -> None:
    assert json.loads(error_body(status, "No good.", "messages[0].content", "r-1")) == {
        "type": "error",
        "error": {"type": type, "message": "messages[0].content: No good."},
        "request_id": "r-1",
    }
    assert json.loads(error_body(status, "No good.", None, "r"))["error"]["message"] == "No good."
