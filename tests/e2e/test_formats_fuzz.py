"""No field of the Responses or Messages API may hurt the server: every value gets 200 or 4xx, then a canary."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from compat.anthropic.content import ContentBlock
from compat.anthropic.messages import CountRequest, MessagesRequest
from compat.openai.responses import ResponseRequest
from compat.openai.responses_items import Item
from tests.e2e.api import Api
from tests.e2e.plain import post
from tests.e2e.test_openai_fuzz import VALUES

HI = [{"role": "user", "content": "Hi"}]
TOOLS: list[dict[str, object]] = [{"type": "function", "name": "f", "parameters": {}}]
BASES: dict[str, tuple[type[msgspec.Struct], dict[str, object]]] = {
    "responses": (ResponseRequest, {"input": "Hi", "max_output_tokens": 2}),
    "messages": (MessagesRequest, {"messages": HI, "max_tokens": 2}),
    "messages/count_tokens": (CountRequest, {"messages": HI}),
}
NESTED: dict[str, tuple[str, tuple[str, ...]]] = {
    "responses": (
        "responses",
        (
            "text.format",
            "text.verbosity",
            "reasoning.effort",
            "tools",
            "tool_choice.type",
            "tool_choice.tools",
        ),
    ),
    "messages": (
        "messages",
        (
            "output_config.format",
            "output_config.effort",
            "thinking.type",
            "tools",
            "tool_choice.type",
            "metadata.user_id",
        ),
    ),
}


def answered(url: str, body: dict[str, object], what: object) -> None:
    answer = post(url, body)
    assert answer.status in (200, *range(400, 500)), (what, answer.body)
    if answer.status != 200:
        assert answer.json()["error"]["message"], what


@pytest.mark.parametrize("endpoint", BASES)
def test_any_value_of_any_field_is_answered_and_then_a_canary(sim_url: str, endpoint: str) -> None:
    type_, base = BASES[endpoint]
    url = f"{sim_url}/v1/{endpoint}"
    for field in type_.__struct_fields__:
        for value in VALUES:
            answered(url, {**base, field: value}, (field, value))
        assert post(url, base).status == 200, field


@pytest.mark.parametrize("endpoint", NESTED)
def test_so_is_any_value_within_a_field(sim_url: str, endpoint: str) -> None:
    path, names = NESTED[endpoint]
    url, base = f"{sim_url}/v1/{path}", BASES[endpoint][1]
    for name in names:
        outer, _, inner = name.partition(".")
        for value in VALUES:
            given: object = {inner: value, "name": "f"} if inner else [{**TOOLS[0], "parameters": value}]
            answered(url, {**base, outer: given}, (name, value))
        assert post(url, base).status == 200, name


@pytest.mark.parametrize("kind", ["message", "function_call", "function_call_output", "reasoning", None, "x"])
def test_any_item_of_an_input_is_answered(sim_url: str, kind: str | None) -> None:
    url = f"{sim_url}/v1/responses"
    whole: dict[str, Any] = {"role": "user", "call_id": "c", "name": "f", "arguments": "{}", "output": "x"}
    for field in Item.__struct_fields__:
        for value in VALUES:
            item = {**whole, "type": kind, field: value}
            body: dict[str, object] = {"input": [item, item], "max_output_tokens": 1}
            answered(url, body, (kind, field, value))


@pytest.mark.parametrize("kind", ["text", "tool_use", "tool_result", "thinking", "x"])
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_any_block_of_a_message_is_answered(sim_url: str, kind: str, role: str) -> None:
    url = f"{sim_url}/v1/messages"
    whole: dict[str, Any] = {"text": "x", "id": "t", "name": "f", "input": {}, "tool_use_id": "t"}
    for field in ContentBlock.__struct_fields__:
        for value in VALUES:
            block = {**whole, "type": kind, field: value}
            messages = [{"role": role, "content": [block, block]}, *HI]
            answered(url, {"messages": messages, "max_tokens": 1}, (kind, field, value))


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b"{" * 5000, b"[" * 200_000]
)
def test_bodies_that_are_no_requests_are_4xx(sim_url: str, path: str, body: bytes) -> None:
    assert post(sim_url + path, body).status in range(400, 500)


@pytest.mark.parametrize("id", ["x", "resp_", "%00", "a" * 3000, "%F0%9F%A6%9C"])
def test_no_id_hurts(sim: Api, id: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
        assert sim(method, f"/v1/responses/{id}{path}").status in range(400, 500)
