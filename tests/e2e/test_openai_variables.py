"""A program written with the `openai` package, call by call: bound to a session's variables, it becomes a graph."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from openai import OpenAI

from compat.openai.binding import Binding
from tests.e2e.api import Api, until
from tests.e2e.plain import post
from tests.e2e.test_openai_fuzz import VALUES

CHAT = "/v1/chat/completions"
LONG: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 20_000,
    "ignore_eos": True,
    "stream": True,
}


def generating(api: Api) -> float:
    lines = api("GET", "/metrics").body.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith("parrot:generations ")))


def say(client: OpenAI, model: str, content: str, parrot: dict[str, object], **fields: Any) -> Any:
    extra = {"parrot": parrot}
    body: dict[str, Any] = {"max_tokens": 8, "temperature": 0, **fields}
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": content}], extra_body=extra, **body
    )


def plain(client: OpenAI, model: str, content: str) -> str | None:
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": content}], max_tokens=8, temperature=0
    )
    return answer.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_a_bound_chat_says_what_the_same_chat_says_unbound(
    client: OpenAI, model: str, api: Api, stream: bool
) -> None:
    session = api.session()
    id = session.removeprefix("/v1/sessions/")
    api("PUT", f"{session}/variables/who", {"value": "a {{input:fox}}"})
    bound: dict[str, object] = {"session_id": id, "inputs": {"x": "who"}, "output": "story"}
    answer = say(client, model, "Tell me of {{input:x}}.", bound, stream=stream)
    if stream:
        chunks = list(answer)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        finish, told = chunks[-1].choices[0].finish_reason, chunks[0].parrot
        assert {chunk.choices[0].delta.role for chunk in chunks[1:]} <= {None}
    else:
        text, finish, told = answer.choices[0].message.content, answer.choices[0].finish_reason, answer.parrot
        assert answer.usage.completion_tokens == 8
        assert told["state"] == "ready"
    assert text == plain(client, model, "Tell me of a {{input:fox}}.")
    assert finish == "length"
    assert (told["session_id"], told["name"]) == (id, "story")
    variable = api("GET", f"{session}/variables/story").body
    assert (variable["id"], variable["value"]) == (told["variable_id"], text)


def test_a_program_is_written_before_its_first_value_is_there(client: OpenAI, model: str, api: Api) -> None:
    """The last call is made first: it waits in the graph for what the others will bring."""
    session = api.session()
    id = session.removeprefix("/v1/sessions/")
    later = {"wait": False, "session_id": id}
    last = say(client, model, "Say it again: {{input:b}}", {**later, "output": "c"})
    assert (last.choices[0].message.content, last.choices[0].finish_reason) == ("", "stop")
    assert last.parrot["state"] == "pending"
    say(client, model, "Go on: {{input:a}}", {**later, "output": "b"})
    first = say(client, model, "Hello!", {"session_id": id, "output": "a"})
    values = api("POST", f"{session}/get", {"variables": ["a", "b", "c"]}).body["values"]
    assert values["a"] == first.choices[0].message.content
    assert values["b"] == plain(client, model, f"Go on: {values['a']}")
    assert values["c"] == plain(client, model, f"Say it again: {values['b']}")
    graph = api("GET", f"{session}/graph").body
    assert len(graph["calls"]) == 3


def test_without_a_session_there_is_a_new_one_and_a_variable_may_be_named_by_its_id(
    client: OpenAI, model: str
) -> None:
    first = say(client, model, "Hello!", {}).parrot
    second = say(
        client,
        model,
        "Again: {{input:x}}",
        {"session_id": first["session_id"], "inputs": {"x": first["variable_id"]}},
    )
    assert second.parrot["session_id"] == first["session_id"]
    assert second.parrot["variable_id"] != first["variable_id"]


def test_a_stream_that_does_not_wait_is_one_chunk(client: OpenAI, model: str) -> None:
    (chunk,) = say(client, model, "{{input:never}}", {"wait": False}, stream=True)
    assert (chunk.choices[0].delta.content, chunk.choices[0].finish_reason) == ("", "stop")
    assert chunk.parrot["state"] == "pending"
    (chunk,) = say(client, model, "{{input:never}}", {"wait": 0.1}, stream=True)
    assert chunk.parrot["state"] == "pending"


def test_a_format_holds_for_a_bound_chat_too(client: OpenAI, model: str) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = say(client, model, "Hello!", {}, response_format=format, max_tokens=64)
    assert json.loads(answer.choices[0].message.content)["a"] in (1, 2)


def test_what_a_failed_call_leaves_is_told_to_those_who_wait_for_it(
    client: OpenAI, model: str, api: Api
) -> None:
    session = api.session()
    id = session.removeprefix("/v1/sessions/")
    call = say(client, model, "{{input:never}}", {"session_id": id, "output": "a", "wait": False}).parrot
    api("DELETE", f"{session}/calls/{call['call_id']}")
    with pytest.raises(openai.APIStatusError) as caught:
        say(client, model, "{{input:a}}", {"session_id": id})
    assert caught.value.status_code == 424


def test_another_request_cancels_a_bound_chat_by_its_id(sim: Api) -> None:
    session = sim.session()
    bound = {"session_id": session.removeprefix("/v1/sessions/"), "output": "a"}
    with sim.stream("POST", CHAT, LONG | {"parrot": bound, "request_id": "long"}) as events:
        next(events)
        assert sim("POST", "/v1/requests/chatcmpl-long/cancel").status == 200
        assert [event.data for event in events][-2]["error"]["code"] == "request_cancelled"
    assert sim("GET", f"{session}/variables/a?wait=5").status == 424
    assert until(lambda: generating(sim) == 0)


def test_a_client_that_leaves_before_it_is_told_of_its_session_leaves_nothing_behind(sim: Api) -> None:
    before = len(sim("GET", "/v1/sessions").body["data"])
    with closing(http.client.HTTPConnection(urlsplit(sim.url).netloc)) as connection:
        connection.request("POST", CHAT, json.dumps(LONG | {"stream": False, "parrot": {}}))
        assert until(lambda: generating(sim) == 1)
        assert len(sim("GET", "/v1/sessions").body["data"]) == before + 1
    assert until(lambda: generating(sim) == 0)
    assert len(sim("GET", "/v1/sessions").body["data"]) == before


def test_one_that_leaves_after_that_may_come_back_for_the_value(sim: Api) -> None:
    with sim.stream("POST", CHAT, LONG | {"parrot": {}, "max_tokens": 200}) as events:
        told = next(events).data["parrot"]
    value = sim("GET", f"/v1/sessions/{told['session_id']}/variables/{told['variable_id']}?wait=20")
    assert value.status == 200


@pytest.mark.parametrize(
    ("parrot", "fields", "status", "param"),
    [
        ({"session_id": "sess_none"}, {}, 404, "parrot.session_id"),
        ({"output": "no spaces"}, {}, 400, "parrot.output"),
        ({"inputs": {"x": "var_none"}}, {}, 404, "parrot.inputs.x"),
        ({"inputs": {"nobody": "a"}}, {}, 400, "parrot.inputs.nobody"),
        ({"wait": -1}, {}, 400, "parrot.wait"),
        ({"wait": "yes"}, {}, 400, "parrot.wait"),
        ({}, {"n": 2}, 400, "n"),
        ({}, {"logprobs": True}, 400, "logprobs"),
        ({}, {"temperature": 9}, 400, "temperature"),
        ({}, {"response_format": {"type": "poem"}}, 400, "response_format.type"),
        ({}, {"tools": [{"function": {"name": "f"}}]}, 400, "tools"),
        ({}, {"messages": []}, 400, "messages"),
        ({}, {"messages": [{"role": "user", "content": "{{input:}}"}]}, 400, "messages[0].content"),
        ({}, {"messages": [{"role": "user", "content": "{{output:x}}"}]}, 400, "messages[0].content"),
    ],
)
def test_what_cannot_be_bound_is_named_by_the_clients_own_field(
    server_url: str, parrot: object, fields: dict[str, object], status: int, param: str
) -> None:
    body = {"messages": [{"role": "user", "content": "{{input:x}}"}], "parrot": parrot} | fields
    answer = post(f"{server_url}/v1/chat/completions", body)
    assert (answer.status, answer.json()["error"]["param"]) == (status, param), answer.body


def test_any_value_of_any_member_is_answered_and_then_a_canary(sim_url: str) -> None:
    url = f"{sim_url}/v1/chat/completions"
    body = {"messages": [{"role": "user", "content": "{{input:x}}"}], "max_tokens": 2}
    for member in Binding.__struct_fields__:
        for value in VALUES:
            bound = {"wait": False, member: value}
            answer = post(url, body | {"parrot": bound | ({"wait": 0} if bound["wait"] is True else {})})
            assert answer.status in (200, *range(400, 500)), (member, value, answer.body)
            if answer.status != 200:
                assert answer.json()["error"]["message"], (member, value)
    assert post(url, body | {"messages": [{"role": "user", "content": "Hi"}], "parrot": {}}).status == 200
