"""No field that the `openai` package can send is dropped in silence: each is honoured, or refused by its name."""

from __future__ import annotations

import json
from typing import Any, get_type_hints

import msgspec
import pytest
from openai.types import completion_create_params as of_completions
from openai.types.chat import completion_create_params as of_chat
from openai.types.chat.chat_completion_stream_options_param import ChatCompletionStreamOptionsParam

from compat.openai import chat, completions, refusal
from compat.openai.chat import ChatRequest
from compat.openai.common import InvalidField, StreamOptions
from compat.openai.completions import CompletionRequest

HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f"}}

HONOURED: dict[str, object] = {
    "best_of": 1,
    "echo": True,
    "frequency_penalty": 0.5,
    "logit_bias": {"5": 1},
    "max_completion_tokens": 5,
    "max_tokens": 5,
    "messages": HI,
    "metadata": {"a": "b"},
    "model": "m",
    "n": 2,
    "parallel_tool_calls": False,
    "presence_penalty": 0.5,
    "prompt": "x",
    "prompt_cache_key": "k",
    "reasoning_effort": "low",
    "response_format": {"type": "json_object"},
    "safety_identifier": "me",
    "seed": 1,
    "service_tier": "flex",
    "stop": ["a"],
    "store": True,
    "stream": True,
    "temperature": 0.5,
    "tool_choice": "auto",
    "tools": [TOOL],
    "top_p": 0.5,
    "user": "me",
}
REFUSED: dict[str, object] = {
    "audio": {"voice": "x", "format": "mp3"},
    "function_call": {"name": "f"},
    "functions": [{"name": "f"}],
    "modalities": ["text", "audio"],
    "moderation": {"model": "m"},
    "prediction": {"type": "content", "content": "x"},
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "suffix": "x",
    "verbosity": "low",
    "web_search_options": {},
}
TOGETHER: dict[str, dict[str, object]] = {
    "top_logprobs": {"logprobs": True, "top_logprobs": 2},
    "stream_options": {"stream": True, "stream_options": {"include_usage": True}},
}
"""Fields that need another."""

LOGPROBS = {"chat": True, "completions": 2}
ENDPOINTS: dict[str, tuple[type[msgspec.Struct], Any, Any, dict[str, object]]] = {
    "chat": (ChatRequest, of_chat.CompletionCreateParamsStreaming, chat.check, {"messages": HI}),
    "completions": (
        CompletionRequest,
        of_completions.CompletionCreateParamsStreaming,
        completions.check,
        {"prompt": "x"},
    ),
}
FIELDS = [
    (endpoint, field)
    for endpoint, (_, params, _, _) in ENDPOINTS.items()
    for field in sorted(get_type_hints(params))
]


def check(endpoint: str, fields: dict[str, object]) -> None:
    type_, _, check, base = ENDPOINTS[endpoint]
    check(msgspec.json.decode(json.dumps(base | fields), type=type_))


def test_the_package_has_fields_at_all() -> None:
    assert len(FIELDS) > 50


@pytest.mark.parametrize(("endpoint", "field"), FIELDS)
def test_every_field_of_the_package_is_honoured_or_refused_by_name(endpoint: str, field: str) -> None:
    assert field in ENDPOINTS[endpoint][0].__struct_fields__, "dropped in silence"
    if field in REFUSED:
        with pytest.raises(InvalidField) as caught:
            check(endpoint, {field: REFUSED[field]})
        assert (caught.value.param, caught.value.code) == (field, "unsupported_field")
    elif field == "logprobs":
        check(endpoint, {field: LOGPROBS[endpoint]})
    else:
        check(endpoint, TOGETHER.get(field) or {field: HONOURED[field]})


@pytest.mark.parametrize("name", [*refusal.GENERATION, *refusal.CHAT])
def test_what_is_refused_is_refused_for_any_value_that_asks(name: str) -> None:
    with pytest.raises(InvalidField) as caught:
        check("chat", {name: {"something": 1}})
    assert caught.value.param == name


@pytest.mark.parametrize("name", refusal.HARMLESS)
def test_and_accepted_for_one_that_asks_for_nothing(name: str) -> None:
    for value in refusal.HARMLESS[name]:
        if name == "include_obfuscation":
            check("chat", {"stream": True, "stream_options": {name: value}})
        else:
            check("completions" if name == "suffix" else "chat", {name: value})


def test_true_is_not_one_and_nought_is_not_false() -> None:
    for fields in ({"length_penalty": True}, {"use_beam_search": 0}):
        with pytest.raises(InvalidField):
            check("completions", dict[str, object](fields))


def test_stream_options_are_complete_too() -> None:
    assert {*get_type_hints(ChatCompletionStreamOptionsParam)} <= {*StreamOptions.__struct_fields__}
    with pytest.raises(InvalidField) as caught:
        check("chat", {"stream": True, "stream_options": {"include_obfuscation": True}})
    assert caught.value.param == "stream_options.include_obfuscation"


def test_a_field_that_nobody_knows_is_ignored() -> None:
    check("chat", {"made_up": {"x": 1}})
    check("completions", {"made_up": [1]})
