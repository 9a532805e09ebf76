"""Byte-exact streams of the Responses API, and that the `openai` package reads them to the end."""

from __future__ import annotations

import json

import pytest
from openai import omit
from openai._models import construct_type_unchecked
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from compat.blocks import TypedEvent
from compat.openai.responses import ResponseRequest, echo
from compat.openai.responses_encoder import ResponseEncoder, ResponseHead
from server.http.sse import frames
from tests.compat.deltas import STEPS, bytes_of
from tests.compat.written import WRITTEN, Written
from tests.golden.files import check_golden

EVENTS: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
NOW = 1700000009


def encoder(written: Written, *, logprobs: bool = False) -> ResponseEncoder:
    request = ResponseRequest(input="Hi", metadata={"a": "b"}, top_logprobs=2 if logprobs else None)
    head = ResponseHead("0f", 1700000000, "org/model", 5, echo(request, 0.5, 1.0))
    return ResponseEncoder(head, written.blocks(), logprobs=logprobs, bytes_of=bytes_of)


def stream(coder: ResponseEncoder, written: Written) -> list[TypedEvent]:
    return [
        *coder.begin(),
        *(event for step in written.steps for event in coder.feed(step)),
        *coder.end(NOW),
    ]


@pytest.mark.parametrize("name", WRITTEN)
def test_streams_are_byte_for_byte_as_recorded(name: str) -> None:
    events = stream(encoder(WRITTEN[name]), WRITTEN[name])
    check_golden(f"responses-{name}.sse", frames(events))


def test_logprobs_come_with_the_text_they_are_of() -> None:
    written = WRITTEN["text"]
    events = stream(encoder(written, logprobs=True), written)
    check_golden("responses-logprobs.sse", frames(events))
    deltas = [json.loads(event.data) for event in events if event.name == "response.output_text.delta"]
    assert [len(delta["logprobs"]) for delta in deltas] == [1, 1, 2]


@pytest.mark.parametrize("name", WRITTEN)
def test_every_event_is_one_that_the_openai_package_knows(name: str) -> None:
    events = stream(encoder(WRITTEN[name], logprobs=True), WRITTEN[name])
    for number, (kind, data) in enumerate(events):
        event = EVENTS.validate_json(data)
        assert (event.type, event.sequence_number) == (kind, number)


@pytest.mark.parametrize("name", WRITTEN)
def test_its_stream_helper_builds_the_same_response_from_the_pieces(name: str) -> None:
    coder = encoder(WRITTEN[name])
    state: ResponseStreamState[None] = ResponseStreamState(input_tools=[], text_format=omit)
    events: list[ResponseStreamEvent] = [
        construct_type_unchecked(type_=ResponseStreamEvent, value=json.loads(event.data))  # type: ignore[arg-type]
        for event in stream(coder, WRITTEN[name])
    ]
    for event in events:
        state.handle_event(event)
    whole = Response.model_validate_json(coder.answer())
    pieces = state._output_items
    assert [pieces[index].type for index in sorted(pieces)] == [item.type for item in whole.output]
    for index, item in enumerate(whole.output):
        piece = pieces[index]
        if item.type == "message" and piece.type == "message":
            assert [part.to_dict() for part in piece.content] == [part.to_dict() for part in item.content]
        if item.type == "function_call" and piece.type == "function_call":
            assert (piece.call_id, piece.arguments) == (item.call_id, item.arguments)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_not_streamed_is_the_response_at_the_stream_s_end(name: str) -> None:
    streamed, collected = (encoder(WRITTEN[name], logprobs=True) for _ in range(2))
    last = json.loads(stream(streamed, WRITTEN[name])[-1].data)
    for step in WRITTEN[name].steps:
        collected.collect(step)
    collected.end(NOW)
    assert json.loads(collected.answer()) == last["response"]


def test_a_turn_is_the_output_without_what_was_said_of_its_tokens() -> None:
    """Twenty alternatives for each of ten thousand tokens would be too much to read again with every request."""
    written = WRITTEN["text"]
    coder = encoder(written, logprobs=True)
    stream(coder, written)
    items, turn = json.loads(coder.answer())["output"], json.loads(coder.turn())
    assert len(items[0]["content"][0]["logprobs"]) > 1
    items[0]["content"][0]["logprobs"] = []
    assert turn == items


def test_an_answer_that_has_ended_may_fail_all_the_same() -> None:
    coder = encoder(WRITTEN["text"])
    stream(coder, WRITTEN["text"])
    coder.fail("Nothing is left.", "server_error")
    assert json.loads(coder.answer())["status"] == "failed"


@pytest.mark.parametrize(
    ("name", "status", "last"), [("text", "completed", "completed"), ("cut", "incomplete", "incomplete")]
)
def test_the_last_item_says_whether_it_was_cut(name: str, status: str, last: str) -> None:
    coder = encoder(WRITTEN[name])
    events = stream(coder, WRITTEN[name])
    answer = json.loads(coder.answer())
    assert (answer["status"], answer["output"][-1]["status"]) == (status, last)
    assert events[-1].name == f"response.{status}"
    assert (answer["incomplete_details"] is None) == (status == "completed")
    assert (answer["completed_at"] == NOW) == (status == "completed")


def test_before_the_first_step_it_is_queued_and_then_shows_what_there_is() -> None:
    coder = encoder(WRITTEN["text"])
    assert json.loads(coder.answer())["status"] == "queued"
    coder.collect(STEPS[0])
    answer = json.loads(coder.answer())
    assert (answer["status"], answer["output"][0]["status"]) == ("in_progress", "in_progress")
    assert answer["output"][0]["content"][0]["text"] == "Hello"
    assert answer["usage"] is None


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_stream_that_fails_ends_with_what_there_is(cancelled: bool) -> None:
    coder = encoder(WRITTEN["text"])
    events = [*coder.begin(), *coder.feed(STEPS[0])]
    coder.fail("The engine has died.", "server_error", cancelled=cancelled)
    events += coder.end(NOW)
    check_golden(f"responses-{'cancelled' if cancelled else 'failed'}.sse", frames(events))
    response = json.loads(events[-1].data)["response"]
    assert events[-1].name == "response.failed"
    assert response["status"] == ("cancelled" if cancelled else "failed")
    assert response["output"][0]["status"] == "incomplete"
    Response.model_validate(response)
