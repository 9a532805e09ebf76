from __future__ import annotations

import json

import msgspec
import pytest

from compat.openai import chat, completions
from compat.openai.chat import ChatRequest, Message, Part, text_of
from compat.openai.common import InvalidField
from compat.openai.completions import CompletionRequest
from compat.openai.tools.fields import CalledFunction, ToolCall

HI = {"messages": [{"role": "user", "content": "hi"}]}


def completion(**fields: object) -> CompletionRequest:
    return msgspec.json.decode(json.dumps({"prompt": "x"} | fields), type=CompletionRequest)


def chatting(**fields: object) -> ChatRequest:
    return msgspec.json.decode(json.dumps(HI | fields), type=ChatRequest)


ASKING = {
    "use_beam_search": True,
    "logits_processors": ["a"],
    "truncate_prompt_tokens": 5,
    "prompt_embeds": "AAAA",
}
ASKING_CHAT = {
    "functions": [{}],
    "function_call": {"name": "f"},
    "modalities": ["text", "audio"],
    "audio": {"voice": "x"},
    "chat_template": "{{ x }}",
    "documents": [{}],
    "prediction": {"type": "content"},
    "web_search_options": {},
}
HARMLESS = {
    "best_of": 1,
    "n": None,
    "use_beam_search": False,
    "response_format": {"type": "text"},
    "bad_words": [],
    "suffix": "",
    "tools": [],
    "tool_choice": "none",
    "modalities": ["text"],
    "parallel_tool_calls": True,
    "user": "me",
    "metadata": {"a": "b"},
    "store": False,
    "stream_options": None,
    "made_up_by_somebody": [1, {"x": 2}],
    "service_tier": "auto",
    "logit_bias": {"5": -100},
}


@pytest.mark.parametrize("field", ASKING)
def test_a_known_field_that_is_not_supported_is_named(field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        completions.check(completion(**{field: ASKING[field]}))
    assert caught.value.param == field
    assert caught.value.code == "unsupported_field"
    with pytest.raises(InvalidField, match=field):
        chat.check(chatting(**{field: ASKING[field]}))


@pytest.mark.parametrize("field", ASKING_CHAT)
def test_so_are_those_of_chat(field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        chat.check(chatting(**{field: ASKING_CHAT[field]}))
    assert caught.value.param == field


def test_and_those_of_completions() -> None:
    with pytest.raises(InvalidField) as caught:
        completions.check(completion(suffix="x"))
    assert caught.value.param == "suffix"


@pytest.mark.parametrize("field", HARMLESS)
def test_a_field_that_asks_for_nothing_is_accepted(field: str) -> None:
    completions.check(completion(**{field: HARMLESS[field]}))
    chat.check(chatting(**{field: HARMLESS[field]}))


@pytest.mark.parametrize("field", [*ChatRequest.__struct_fields__])
def test_null_is_absent(field: str) -> None:
    if field != "messages":
        assert chatting(**{field: None}) == chatting()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 65}, "n"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"service_tier": "gold"}, "service_tier"),
        ({"cache_salt": ""}, "cache_salt"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"best_of": 65}, "best_of"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
    ],
)
def test_values_out_of_range_are_named(fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidField) as caught:
        completions.check(completion(**fields))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("text", ["text"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_every_form_of_a_prompt_is_understood(prompt: object, expected: list[str | list[int]]) -> None:
    assert completions.prompts(completion(prompt=prompt)) == expected


@pytest.mark.parametrize("prompt", [[], ["a", 1], [1, [2]], ["a", [2]], ["a"] * 257])
def test_a_prompt_that_is_none_of_them_is_refused(prompt: object) -> None:
    with pytest.raises(InvalidField) as caught:
        completions.prompts(completion(prompt=prompt))
    assert caught.value.param == "prompt"


def test_prompts_times_choices_are_capped() -> None:
    assert len(completions.prompts(completion(prompt=["a"] * 64, n=4))) == 64
    with pytest.raises(InvalidField, match="256"):
        completions.prompts(completion(prompt=["a"] * 65, n=4))
    with pytest.raises(InvalidField, match="256"):
        completions.prompts(completion(prompt=["a"] * 65, best_of=4))


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "wizard", "content": "x"}, "messages[1].role"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[1].content[0].type"),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text"}]},
            "messages[1].content[1].text",
        ),
    ],
)
def test_a_message_that_cannot_be_served_is_named(message: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidField) as caught:
        chat.check_messages(chatting(messages=[*HI["messages"], message]).messages)
    assert caught.value.param == param


def test_an_answer_of_ours_may_come_back_as_history() -> None:
    ours: dict[str, object] = {
        "role": "assistant",
        "content": "hi",
        "refusal": None,
        "tool_calls": None,
        "audio": None,
        "annotations": [],
    }
    chat.check_messages(chatting(messages=[*HI["messages"], ours]).messages)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs.chat_template"),
        ({"chat_template_kwargs": {"enable_thinking": "no"}}, "chat_template_kwargs.enable_thinking"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"best_of": 2}, "best_of"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "x", "function": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"function": {"name": "no spaces"}}]}, "tools[0].function.name"),
        ({"tools": [{"function": {"name": "f"}}] * 2}, "tools"),
        (
            {
                "tools": [{"function": {"name": "f"}}],
                "tool_choice": {"type": "function", "function": {"name": "g"}},
            },
            "tool_choice.function.name",
        ),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ],
)
def test_other_fields_of_chat_are_named_too(fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidField) as caught:
        chat.check(chatting(**fields))
    assert caught.value.param == param


def test_content_may_be_text_parts_or_absent() -> None:
    assert text_of(Message("user", "a")) == "a"
    assert text_of(Message("user", [Part("text", "a"), Part("text", "b")])) == "a\nb"
    assert text_of(Message("assistant")) == ""


def test_max_completion_tokens_wins() -> None:
    assert chatting(max_tokens=5).output_limit == 5
    assert chatting(max_tokens=5, max_completion_tokens=7).output_limit == 7


def test_a_conversation_has_a_bounded_number_of_messages_and_of_arguments() -> None:
    chat.check_messages([Message("user", "x")] * chat.MAX_MESSAGES)
    with pytest.raises(InvalidField) as caught:
        chat.check_messages([Message("user", "x")] * (chat.MAX_MESSAGES + 1))
    assert caught.value.param == "messages"
    half = ToolCall(CalledFunction("f", "1" * (chat.MAX_ARGUMENTS // 2)))
    chat.check_messages([Message("assistant", tool_calls=[half, half])])
    with pytest.raises(InvalidField, match="arguments"):
        chat.check_messages(
            [Message("assistant", tool_calls=[half, half]), Message("assistant", tool_calls=[half])]
        )
