"""Anthropic's Messages API from the `anthropic` package against a real server: unchanged programs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any, Literal

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import MessageParam
from openai import OpenAI
from pydantic import BaseModel

from bench.serving import Server, serve
from tests.e2e.api import Api, until
from tests.e2e.plain import post

STORY: list[MessageParam] = [{"role": "user", "content": "Tell me a story."}]
PAINT: Any = {
    "name": "paint",
    "description": "Paint it.",
    "input_schema": {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "coats": {"type": "integer", "enum": [1, 2]}},
        "required": ["colour", "coats"],
        "additionalProperties": False,
    },
}
GREEDY = {"temperature": 0, "top_k": 5}  # newer versions of the package have no sampling parameters
NAMED: Any = {"type": "tool", "name": "paint", "disable_parallel_tool_use": True}


class Animal(BaseModel):
    kind: Literal["cat", "dog"]


@pytest.fixture(scope="module")
def client(server_url: str) -> Iterator[Anthropic]:
    with Anthropic(base_url=server_url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def model(server_url: str) -> str:
    with OpenAI(base_url=f"{server_url}/v1", api_key="none") as client:
        return client.models.list().data[0].id


@pytest.fixture(scope="module")
def slow() -> Iterator[Server]:
    """Fifty tokens a second on the simulated engine, with a key."""
    flags = ("--engine", "sim", "--sim-step-ms", "20", "--api-key", "one", "two")
    with serve(*flags, "--open-metrics") as server:
        yield server


def running(server: Server) -> float:
    return server.metric("vllm:num_requests_running")


def test_a_message_is_the_same_streamed_or_not(client: Anthropic, model: str) -> None:
    fields: Any = {"model": model, "messages": STORY, "max_tokens": 24}
    fields["extra_body"] = GREEDY | {"ignore_eos": True}
    whole = client.messages.create(**fields)
    with client.messages.stream(**fields) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert whole.content[0].type == "text"
    assert whole.content[0].text == text != ""
    assert final.stop_reason == whole.stop_reason == "max_tokens"
    assert final.usage.output_tokens == whole.usage.output_tokens == 24
    assert final.id != whole.id


def test_the_events_of_a_stream_come_in_their_order(client: Anthropic, model: str) -> None:
    stream = client.messages.create(
        model=model, messages=STORY, max_tokens=6, extra_body=GREEDY, stream=True, system="Be nice."
    )
    kinds = [kind for kind, _ in groupby(event.type for event in stream)]
    assert kinds == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_it_says_what_a_chat_says(client: Anthropic, model: str, server_url: str) -> None:
    message = client.messages.create(
        model=model, messages=STORY, system="Be nice.", max_tokens=16, extra_body=GREEDY
    )
    with OpenAI(base_url=f"{server_url}/v1", api_key="none") as openai:
        chat = openai.chat.completions.create(
            model=model,
            messages=[
                {"role": "system", "content": "Be nice."},
                {"role": "user", "content": "Tell me a story."},
            ],
            max_tokens=16,
            temperature=0,
        )
    assert message.content[0].type == "text"
    assert message.content[0].text == chat.choices[0].message.content
    assert chat.usage is not None
    usage = message.usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == chat.usage.prompt_tokens


def test_a_prefill_is_continued(client: Anthropic, model: str, server_url: str) -> None:
    turns: Any = [*STORY, {"role": "assistant", "content": "Once upon"}]
    message = client.messages.create(model=model, messages=turns, max_tokens=16, extra_body=GREEDY)
    with OpenAI(base_url=f"{server_url}/v1", api_key="none") as openai:
        chat = openai.chat.completions.create(
            model=model,
            messages=turns,
            max_tokens=16,
            temperature=0,
            extra_body={"continue_final_message": True, "add_generation_prompt": False},
        )
    assert message.content[0].type == "text"
    assert message.content[0].text == chat.choices[0].message.content


def test_a_stop_sequence_ends_the_text_before_it(client: Anthropic, model: str) -> None:
    fields: Any = {"model": model, "messages": STORY, "max_tokens": 24, "extra_body": GREEDY}
    whole = client.messages.create(**fields).content[0]
    assert whole.type == "text"
    stop = whole.text[7:12]
    message = client.messages.create(**fields, stop_sequences=[stop])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop)
    assert message.content[0].type == "text"
    assert message.content[0].text == whole.text[: whole.text.index(stop)]


def test_a_tool_run(client: Anthropic, model: str) -> None:
    ask: list[MessageParam] = [{"role": "user", "content": "Paint the house."}]
    message = client.messages.create(
        model=model, messages=ask, max_tokens=600, tools=[PAINT], tool_choice=NAMED
    )
    (use,) = message.content
    assert message.stop_reason == "tool_use"
    assert use.type == "tool_use"
    assert use.input["colour"] in ("red", "blue")
    history: list[MessageParam] = [
        *ask,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "done"}]},
    ]
    answer = client.messages.create(model=model, messages=history, max_tokens=8, tools=[PAINT])
    assert answer.content[0].type == "text"


def test_a_streamed_call_is_the_same_call(client: Anthropic, model: str) -> None:
    fields: Any = {
        "model": model,
        "messages": STORY,
        "max_tokens": 600,
        "tools": [PAINT],
        "tool_choice": NAMED,
        "extra_body": GREEDY,
    }
    (whole,) = client.messages.create(**fields).content
    assert whole.type == "tool_use"
    with client.messages.stream(**fields) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    assert json.loads("".join(parts)) == whole.input
    assert final.content[0].type == "tool_use"
    assert (final.content[0].name, final.content[0].input) == ("paint", whole.input)


def test_any_tool_may_be_demanded_and_none_forbidden(client: Anthropic, model: str) -> None:
    fields: Any = {"model": model, "messages": STORY, "max_tokens": 600, "tools": [PAINT]}
    demanded = client.messages.create(
        **fields, tool_choice={"type": "any", "disable_parallel_tool_use": True}
    )
    assert [block.type for block in demanded.content] == ["tool_use"]
    forbidden = client.messages.create(**fields, tool_choice={"type": "none"})
    assert [block.type for block in forbidden.content] == ["text"]


def test_a_format_is_kept_to(client: Anthropic, model: str) -> None:
    schema = {"type": "object", "properties": {"kind": {"enum": ["cat", "dog"]}}, "required": ["kind"]}
    message = client.messages.create(
        model=model,
        messages=STORY,
        max_tokens=200,
        output_config={
            "format": {"type": "json_schema", "schema": {**schema, "additionalProperties": False}}
        },
    )
    assert message.content[0].type == "text"
    Animal.model_validate_json(message.content[0].text)


def test_the_tokens_of_a_prompt_are_counted_without_an_answer(client: Anthropic, model: str) -> None:
    fields: Any = {"model": model, "messages": STORY, "system": "Be nice.", "tools": [PAINT]}
    counted = client.messages.count_tokens(**fields).input_tokens
    usage = client.messages.create(**fields, max_tokens=1).usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_a_second_time_the_prompt_is_read_from_the_cache(client: Anthropic, model: str) -> None:
    messages: list[MessageParam] = [{"role": "user", "content": "A parrot repeats what it hears. " * 30}]
    for _ in range(2):
        usage = client.messages.create(model=model, messages=messages, max_tokens=1).usage
    assert (usage.cache_read_input_tokens or 0) > usage.input_tokens


async def test_many_run_side_by_side_with_the_async_client(model: str, server_url: str) -> None:
    async with AsyncAnthropic(base_url=server_url, api_key="none", max_retries=0) as client:

        async def text(number: int) -> str:
            async with client.messages.stream(
                model=model, messages=STORY, max_tokens=12, extra_body={"seed": number, "temperature": 1}
            ) as stream:
                return "".join([text async for text in stream.text_stream])

        together = await asyncio.gather(*map(text, range(6)))
        assert [await text(number) for number in range(2)] == together[:2]
        assert (await client.messages.count_tokens(model=model, messages=STORY)).input_tokens > 0


def test_errors_are_the_package_s_own_and_name_the_field(client: Anthropic, model: str) -> None:
    with pytest.raises(
        anthropic.NotFoundError, match="model: The model 'claude-nope' does not exist"
    ) as missing:
        client.messages.create(model="claude-nope", messages=STORY, max_tokens=1)
    assert missing.value.request_id
    with pytest.raises(anthropic.BadRequestError, match=r"tools\[0\].type"):
        client.messages.create(
            model=model,
            messages=STORY,
            max_tokens=1,
            tools=[{"type": "web_search_20250305", "name": "web_search"}],
        )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**7}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 20_000}]}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"stop_sequences": ["a"] * 1000}, "stop_sequences"),
        ({"temperature": 3}, "temperature"),
        ({"output_config": {"effort": "high"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"tools": [PAINT | {"name": "no spaces"}]}, "tools[0].name"),
        ({"tools": [PAINT], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name"),
        ({"tools": [PAINT], "tool_choice": {"type": "some"}}, "tool_choice.type"),
    ],
)
def test_a_bad_request_names_its_field(server_url: str, fields: dict[str, object], param: str) -> None:
    answer = post(f"{server_url}/v1/messages", {"messages": STORY, "max_tokens": 5, **fields})
    assert answer.status == 400, answer.body
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(f"{param}: ")


def test_the_key_may_come_in_anthropic_s_header(slow: Server) -> None:
    with Anthropic(base_url=slow.url, api_key="one", max_retries=0) as client:
        assert client.messages.create(model="parrot-tales", messages=STORY, max_tokens=1).content
        assert client.models.list().data[0].id == "parrot-tales"
    with (
        Anthropic(base_url=slow.url, api_key="wrong", max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError),
    ):
        client.messages.create(model="parrot-tales", messages=STORY, max_tokens=1)


def test_a_stream_can_be_cancelled_by_its_id_and_says_so(slow: Server) -> None:
    with Anthropic(base_url=slow.url, api_key="one", max_retries=0) as client:
        stream = client.messages.create(
            model="parrot-tales",
            messages=STORY,
            max_tokens=1500,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        start = next(stream)
        assert start.type == "message_start"
        url = f"{slow.url}/v1/requests/{start.message.id}/cancel"
        assert post(url, b"", {"x-api-key": "two"}).status == 404
        assert post(url, b"", {"x-api-key": "one"}).status == 200
        with pytest.raises(anthropic.APIStatusError, match="cancelled"):
            list(stream)
    assert until(lambda: running(slow) == 0)


def test_a_client_that_leaves_ends_its_message(slow: Server) -> None:
    with Anthropic(base_url=slow.url, api_key="one", max_retries=0) as client:
        stream = client.messages.create(
            model="parrot-tales",
            messages=STORY,
            max_tokens=1500,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        next(stream)
        assert until(lambda: running(slow) == 1)
        stream.close()
    assert until(lambda: running(slow) == 0)


def test_an_unknown_path_below_it_is_an_error_in_the_same_shape(api: Api) -> None:
    answer = api("POST", "/v1/messages/batches", {})
    assert (answer.status, answer.body["error"]["type"]) == (404, "not_found_error")
