"""The Responses API of the `openai` package against a real server: unchanged programs, and what they rely on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import Response
from pydantic import BaseModel

from bench.serving import Server, serve
from tests.e2e.api import Api, until
from tests.e2e.plain import post

STORY = "Tell me a story."
PAINT: Any = {
    "type": "function",
    "name": "paint",
    "description": "Paint it.",
    "parameters": {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "coats": {"type": "integer", "enum": [1, 2]}},
        "required": ["colour", "coats"],
        "additionalProperties": False,
    },
    "strict": True,
}
NAMED: Any = {"type": "function", "name": "paint"}


class Animal(BaseModel):
    kind: Literal["cat", "dog"]
    legs: Literal[2, 4]


@pytest.fixture(scope="module")
def slow() -> Iterator[Server]:
    """Fifty tokens a second on the simulated engine: what runs can be caught running."""
    flags = ("--engine", "sim", "--sim-step-ms", "20", "--api-key", "one", "two")
    with serve(*flags, "--open-metrics") as server:
        yield server


@pytest.fixture(scope="module")
def slow_client(slow: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{slow.url}/v1", api_key="one", max_retries=0) as client:
        yield client


def forever(client: OpenAI, **fields: Any) -> Any:
    """A response that would take half a minute."""
    return client.responses.create(
        model="parrot-tales", input=STORY, max_output_tokens=1500, extra_body={"ignore_eos": True}, **fields
    )


def running(server: Server) -> float:
    return server.metric("vllm:num_requests_running")


def test_a_response_is_the_same_streamed_or_not(client: OpenAI, model: str) -> None:
    fields: Any = {"model": model, "input": STORY, "max_output_tokens": 24, "temperature": 0}
    fields["extra_body"] = {"ignore_eos": True}
    whole = client.responses.create(**fields)
    events = list(client.responses.create(**fields, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    last = events[-1]
    assert last.type == "response.incomplete"
    assert "".join(deltas) == last.response.output_text == whole.output_text != ""
    assert whole.status == last.response.status == "incomplete"
    assert whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"
    assert whole.usage is not None
    assert whole.usage.output_tokens == 24 >= len(deltas) > 1
    assert whole.usage.total_tokens == whole.usage.input_tokens + 24


def test_it_says_what_a_chat_says(client: OpenAI, model: str) -> None:
    chat = client.chat.completions.create(
        model=model,
        messages=[{"role": "system", "content": "Be nice."}, {"role": "user", "content": STORY}],
        max_tokens=16,
        temperature=0,
    )
    response = client.responses.create(
        model=model, instructions="Be nice.", input=STORY, max_output_tokens=16, temperature=0
    )
    assert response.output_text == chat.choices[0].message.content
    assert response.usage is not None
    assert chat.usage is not None
    assert response.usage.input_tokens == chat.usage.prompt_tokens


def test_a_response_repeats_what_was_asked(client: OpenAI, model: str) -> None:
    response = client.responses.create(
        model=model,
        input=STORY,
        max_output_tokens=2,
        instructions="Rhyme.",
        metadata={"a": "b"},
        top_p=0.9,
        tools=[PAINT],
        tool_choice="none",
    )
    assert (response.instructions, response.metadata, response.top_p) == ("Rhyme.", {"a": "b"}, 0.9)
    assert response.max_output_tokens == 2
    assert response.tools[0].to_dict()["name"] == "paint"
    Response.model_validate(response.to_dict())


def test_the_stream_helper_reads_it_to_its_end(client: OpenAI, model: str) -> None:
    with client.responses.stream(model=model, input=STORY, temperature=0, text_format=Animal) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert isinstance(final.output_parsed, Animal)


def test_a_pydantic_model_is_parsed(client: OpenAI, model: str) -> None:
    parsed = client.responses.parse(model=model, input="A pet?", text_format=Animal).output_parsed
    assert parsed is not None
    assert parsed.legs in (2, 4)


def test_logprobs_come_when_they_are_asked_for(client: OpenAI, model: str) -> None:
    response = client.responses.create(
        model=model,
        input=STORY,
        max_output_tokens=4,
        temperature=0,
        top_logprobs=2,
        include=["message.output_text.logprobs"],
    )
    message = response.output[0]
    assert message.type == "message"
    part = message.content[0]
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert b"".join(bytes(token.bytes) for token in part.logprobs).decode() == part.text
    assert all(len(token.top_logprobs) == 2 for token in part.logprobs)


def test_a_tool_run_goes_on_from_the_response_before(client: OpenAI, model: str) -> None:
    first = client.responses.create(
        model=model, input="Paint the house.", tools=[PAINT], tool_choice=NAMED, parallel_tool_calls=False
    )
    (call,) = first.output
    assert call.type == "function_call"
    assert call.name == "paint"
    assert json.loads(call.arguments)["colour"] in ("red", "blue")
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "done"}
    by_id = client.responses.create(
        model=model, input=[result], previous_response_id=first.id, max_output_tokens=12, temperature=0
    )
    by_hand = client.responses.create(
        model=model,
        input=[{"role": "user", "content": "Paint the house."}, *first.to_dict()["output"], result],  # type: ignore[misc]
        max_output_tokens=12,
        temperature=0,
    )
    assert by_id.output_text == by_hand.output_text
    assert by_id.usage is not None
    assert by_hand.usage is not None
    assert by_id.usage.input_tokens == by_hand.usage.input_tokens


def test_a_streamed_call_is_the_same_call(client: OpenAI, model: str) -> None:
    fields: Any = {
        "model": model,
        "input": "Paint it.",
        "tools": [PAINT],
        "tool_choice": NAMED,
        "temperature": 0,
    }
    (whole,) = client.responses.create(**fields).output
    events = list(client.responses.create(**fields, stream=True))
    assert whole.type == "function_call"
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    (done,) = (event for event in events if event.type == "response.function_call_arguments.done")
    assert "".join(deltas) == done.arguments == whole.arguments
    with client.responses.stream(**fields) as stream:
        (call,) = stream.get_final_response().output
    assert call.type == "function_call"
    assert call.arguments == whole.arguments


def test_a_conversation_goes_on_without_the_earlier_instructions(client: OpenAI, model: str) -> None:
    def ask(input: str, **fields: Any) -> Any:
        return client.responses.create(
            model=model,
            input=input,
            max_output_tokens=8,
            temperature=0,
            extra_body={"ignore_eos": True},
            **fields,
        )

    first = ask("Hi", instructions="Rhyme.")
    second = ask("And?", previous_response_id=first.id)
    third = ask("So?", previous_response_id=second.id)
    items = client.responses.input_items.list(third.id, order="asc").data
    roles = [item.role for item in items if item.type == "message"]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    assert len({item.id for item in items}) == 5
    chat = client.chat.completions.create(
        model=model,
        messages=[
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "And?"},
        ],
        max_tokens=8,
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    assert second.output_text == chat.choices[0].message.content
    assert second.usage.input_tokens_details.cached_tokens >= 0


def test_a_stored_response_is_retrieved_listed_and_deleted(client: OpenAI, model: str) -> None:
    items: Any = [{"role": "user", "content": f"Number {number}"} for number in range(5)]
    made = client.responses.create(model=model, input=items, max_output_tokens=4)
    assert client.responses.retrieve(made.id).to_dict() == made.to_dict()
    assert client.responses.cancel(made.id).to_dict() == made.to_dict()
    page = client.responses.input_items.list(made.id, limit=2)
    texts = [part.text for item in page for part in item.content]  # type: ignore[union-attr]
    assert texts == [f"Number {number}" for number in (4, 3, 2, 1, 0)]
    client.responses.delete(made.id)
    for call in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            call(made.id)
    with pytest.raises(openai.BadRequestError) as gone:
        client.responses.create(model=model, input="x", previous_response_id=made.id)
    assert (gone.value.param, gone.value.code) == ("previous_response_id", "previous_response_not_found")


def test_what_is_not_to_be_stored_is_not(client: OpenAI, model: str) -> None:
    made = client.responses.create(model=model, input=STORY, max_output_tokens=2, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_a_key_finds_only_its_own(slow: Server, slow_client: OpenAI) -> None:
    made = slow_client.responses.create(model="parrot-tales", input=STORY, max_output_tokens=2)
    with OpenAI(base_url=f"{slow.url}/v1", api_key="two", max_retries=0) as other:
        for call in (other.responses.retrieve, other.responses.delete, other.responses.cancel):
            with pytest.raises(openai.NotFoundError):
                call(made.id)
        with pytest.raises(openai.BadRequestError):
            other.responses.create(model="parrot-tales", input="x", previous_response_id=made.id)
    assert slow_client.responses.retrieve(made.id).id == made.id


def test_in_the_background_it_goes_on_and_is_asked_for(slow: Server, slow_client: OpenAI) -> None:
    made = slow_client.responses.create(
        model="parrot-tales",
        input=STORY,
        max_output_tokens=20,
        background=True,
        extra_body={"ignore_eos": True},
    )
    assert made.status == "queued"
    assert slow_client.responses.retrieve(made.id).status in ("queued", "in_progress")
    assert until(lambda: slow_client.responses.retrieve(made.id).status == "incomplete")
    final = slow_client.responses.retrieve(made.id)
    assert final.usage is not None
    assert final.usage.output_tokens == 20
    assert final.output_text


def test_a_stream_in_the_background_outlives_its_reader_and_is_taken_up_again(
    slow: Server, slow_client: OpenAI
) -> None:
    stream = slow_client.responses.create(
        model="parrot-tales",
        input=STORY,
        max_output_tokens=20,
        background=True,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    first: list[Any] = [next(iter(stream)) for _ in range(5)]
    id = first[0].response.id
    stream.close()
    rest: list[Any] = [*slow_client.responses.retrieve(id, stream=True, starting_after=4)]
    assert [event.sequence_number for event in (*first, *rest)] == list(range(len(first) + len(rest)))
    assert rest[-1].response.status == "incomplete"
    text = "".join(event.delta for event in (*first, *rest) if event.type == "response.output_text.delta")
    assert text == rest[-1].response.output_text == slow_client.responses.retrieve(id).output_text
    again = [*slow_client.responses.retrieve(id, stream=True)]
    assert [event.to_dict() for event in again] == [event.to_dict() for event in (*first, *rest)]


def test_a_stream_in_the_background_ends_with_what_has_cancelled_it(
    slow: Server, slow_client: OpenAI
) -> None:
    events = forever(slow_client, stream=True, background=True)
    id = next(events).response.id
    slow_client.responses.cancel(id)
    assert [*events][-1].response.status == "cancelled"
    assert [*slow_client.responses.retrieve(id, stream=True)][-1].response.status == "cancelled"
    assert until(lambda: running(slow) == 0)


@pytest.mark.parametrize(
    ("query", "param"),
    [("stream=true", "stream"), ("stream=maybe", "stream"), ("starting_after=x", "starting_after")],
)
def test_what_cannot_be_followed_says_so(client: OpenAI, model: str, query: str, param: str) -> None:
    made = client.responses.create(model=model, input=STORY, max_output_tokens=2)
    with pytest.raises(openai.BadRequestError) as refused:
        client.get(f"/responses/{made.id}?{query}", cast_to=object)
    assert refused.value.param == param


@pytest.mark.parametrize("deleted", [False, True])
def test_what_runs_in_the_background_can_be_ended(slow: Server, slow_client: OpenAI, deleted: bool) -> None:
    made = forever(slow_client, background=True)
    assert until(lambda: running(slow) == 1)
    if deleted:
        slow_client.responses.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            slow_client.responses.retrieve(made.id)
    else:
        assert slow_client.responses.cancel(made.id).status == "cancelled"
        assert slow_client.responses.retrieve(made.id).status == "cancelled"
    assert until(lambda: running(slow) == 0)
    if not deleted:
        assert slow_client.responses.cancel(made.id).status == "cancelled"


def test_a_stream_can_be_cancelled_by_its_id(slow: Server, slow_client: OpenAI) -> None:
    events = forever(slow_client, stream=True)
    created = next(events)
    assert slow_client.responses.retrieve(created.response.id).status == "in_progress"
    assert slow_client.responses.cancel(created.response.id).status == "cancelled"
    last = list(events)[-1]
    assert (last.type, last.response.status) == ("response.failed", "cancelled")
    assert slow_client.responses.retrieve(created.response.id).status == "cancelled"
    assert until(lambda: running(slow) == 0)


@pytest.mark.parametrize("by", ["answer", "request"])
def test_any_request_can_be_cancelled_by_either_of_its_names(
    slow: Server, slow_client: OpenAI, by: str
) -> None:
    events = forever(slow_client, stream=True, store=False, extra_headers={"X-Request-Id": "mine"})
    id = next(events).response.id if by == "answer" else "mine"
    key = {"Authorization": "Bearer one"}
    assert post(f"{slow.url}/v1/requests/{id}/cancel", b"", key).status == 200
    assert list(events)[-1].response.status == "cancelled"
    assert until(lambda: running(slow) == 0)


def test_a_client_that_leaves_ends_its_response_and_nothing_is_kept(
    slow: Server, slow_client: OpenAI
) -> None:
    events = forever(slow_client, stream=True)
    id = next(events).response.id
    assert until(lambda: running(slow) == 1)
    events.close()
    assert until(lambda: running(slow) == 0)
    with pytest.raises(openai.NotFoundError):
        slow_client.responses.retrieve(id)


async def test_many_run_side_by_side_with_the_async_client(model: str, server_url: str) -> None:
    async with AsyncOpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0) as client:

        async def text(number: int) -> str:
            stream = await client.responses.create(
                model=model,
                input=STORY,
                max_output_tokens=12,
                temperature=1,
                extra_body={"seed": number},
                stream=True,
            )
            return "".join(
                [event.delta async for event in stream if event.type == "response.output_text.delta"]
            )

        together = await asyncio.gather(*map(text, range(6)))
        assert [await text(number) for number in range(2)] == together[:2]
        parsed = await client.responses.parse(model=model, input="A pet?", text_format=Animal)
        assert parsed.output_parsed is not None


def test_errors_are_the_package_s_own_and_name_the_field(client: OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.create(model="gpt-nope", input="x")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as tools:
        client.responses.create(model=model, input="x", tools=[{"type": "web_search"}])
    assert tools.value.param == "tools[0].type"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": STORY, "max_output_tokens": 10**7}, "max_output_tokens"),
        ({"input": STORY, "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "word " * 20_000}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{}]}, "input[0]"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        ({"input": STORY, "temperature": 3}, "temperature"),
        ({"input": STORY, "reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"input": STORY, "reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"input": STORY, "include": ["everything"]}, "include[0]"),
        ({"input": STORY, "text": {"format": {"type": "poem"}}}, "text.format.type"),
        ({"input": STORY, "text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        (
            {"input": STORY, "text": {"format": {"type": "json_schema", "schema": {"type": "x"}}}},
            "text.format.schema",
        ),
        ({"input": STORY, "tools": [PAINT | {"name": "no spaces"}]}, "tools[0].name"),
        (
            {"input": STORY, "tools": [PAINT], "tool_choice": {"type": "function", "name": "x"}},
            "tool_choice.name",
        ),
        ({"input": STORY, "tool_choice": "required"}, "tool_choice"),
        ({"input": STORY, "service_tier": "gold"}, "service_tier"),
        ({"input": STORY, "previous_response_id": "resp_x"}, "previous_response_id"),
    ],
)
def test_a_bad_request_names_its_field(server_url: str, fields: dict[str, object], param: str) -> None:
    answer = post(f"{server_url}/v1/responses", fields)
    assert answer.status == 400, answer.body
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order"), ("after=x", "after")],
)
def test_a_bad_page_names_its_field(client: OpenAI, model: str, api: Api, query: str, param: str) -> None:
    made = client.responses.create(model=model, input=STORY, max_output_tokens=1)
    answer = api("GET", f"/v1/responses/{made.id}/input_items?{query}")
    assert (answer.status, answer.body["error"]["param"]) == (400, param)
    streamed = api("GET", f"/v1/responses/{made.id}?stream=true")
    assert (streamed.status, streamed.body["error"]["param"]) == (400, "stream")


def test_a_response_with_many_scores_can_be_continued(sim: Api) -> None:
    scored = {"input": STORY, "max_output_tokens": 2000, "ignore_eos": True, "top_logprobs": 20}
    first = sim("POST", "/v1/responses", scored).body
    assert len(first["output"][0]["content"][0]["logprobs"]) == 2000
    second = sim(
        "POST",
        "/v1/responses",
        {"input": "Go on.", "previous_response_id": first["id"], "max_output_tokens": 2},
    )
    assert second.status == 200, second.body


def test_more_values_than_can_be_looked_at_are_refused_and_then_a_canary(sim: Api) -> None:
    many = ", ".join(['{"role": "user", "content": ""}'] * 100_000)
    calls = ", ".join(['{"type": "function_call", "call_id": "a", "name": "a", "arguments": ""}'] * 20_000)
    for path, body, status in (
        ("/v1/responses", f'{{"input": [{many}]}}', 413),
        ("/v1/responses", f'{{"input": [{calls}]}}', 400),
        ("/v1/chat/completions", f'{{"messages": [{many}]}}', 413),
        ("/v1/messages", f'{{"max_tokens": 1, "messages": [{many}]}}', 413),
    ):
        assert sim("POST", path, body.encode()).status == status, path
    nested = json.dumps({"function": {"name": "f", "arguments": "[" + "[]," * 200_000 + "[]]"}})
    chat = f'{{"messages": [{{"role": "assistant", "tool_calls": [{nested}]}}]}}'
    assert sim("POST", "/v1/chat/completions", chat.encode()).status == 413
    assert sim("POST", "/v1/responses", {"input": "Hi", "max_output_tokens": 1}).status == 200
