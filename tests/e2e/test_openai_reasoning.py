"""A model whose chat template opens a thought: what it says until the end of it is no part of the answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from bench.serving import serve
from server.config import BUNDLED_MODEL
from tests.e2e.plain import post

TEMPLATE = (
    "{% for message in messages %}<|user|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% else %}<think>\n{% endif %}"
    "{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with another template."""
    folder = tmp_path_factory.mktemp("thinker")
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).symlink_to(BUNDLED_MODEL / name)
    config = json.loads((BUNDLED_MODEL / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    return folder


@pytest.fixture(scope="module")
def thinker(folder: Path) -> Iterator[str]:
    with serve("--model", str(folder)) as server:
        yield server.url


def ask(url: str, **fields: Any) -> Any:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "temperature": 0} | fields
    return post(f"{url}/v1/chat/completions", {**body, "seed": 1})


def test_an_output_that_only_thinks_has_reasoning_and_no_content(thinker: str) -> None:
    whole = ask(thinker, ignore_eos=True).json()
    message = whole["choices"][0]["message"]
    assert message["content"] == ""
    assert message["reasoning_content"] == message["reasoning"] != ""
    assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] == 8
    hidden = ask(thinker, ignore_eos=True, include_reasoning=False).json()["choices"][0]["message"]
    assert "reasoning" not in hidden
    assert hidden["content"] == ""


def test_reasoning_is_streamed_and_the_openai_package_reads_it(thinker: str) -> None:
    whole = ask(thinker, ignore_eos=True).json()["choices"][0]["message"]
    with OpenAI(base_url=f"{thinker}/v1", api_key="none", max_retries=0) as client:
        chunks = list(
            client.chat.completions.create(
                model=client.models.list().data[0].id,
                messages=[{"role": "user", "content": "Hi"}],
                max_tokens=8,
                temperature=0,
                seed=1,
                stream=True,
                extra_body={"ignore_eos": True},
            )
        )
    deltas = [chunk.choices[0].delta.model_dump() for chunk in chunks]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == whole["reasoning"]
    assert not any(delta["content"] for delta in deltas)


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_effort": "none", "ignore_eos": True},
        {"chat_template_kwargs": {"enable_thinking": False}, "ignore_eos": True},
        {"response_format": {"type": "json_object"}, "max_tokens": 40},
        {"tools": [{"function": {"name": "f"}}], "tool_choice": "required", "max_tokens": 200},
    ],
    ids=repr,
)
def test_who_is_told_not_to_think_or_is_bound_to_a_format_answers_at_once(
    thinker: str, fields: dict[str, object]
) -> None:
    message = ask(thinker, **fields).json()["choices"][0]["message"]
    assert "reasoning" not in message
    assert message["content"] or message.get("tool_calls")


def test_reasoning_of_earlier_turns_may_come_back(thinker: str) -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes.", "reasoning_content": "well", "reasoning": "well"},
        {"role": "user", "content": "Why?"},
    ]
    assert ask(thinker, messages=turns).status == 200


def test_without_the_parser_a_thought_is_text(folder: Path) -> None:
    with serve("--model", str(folder), "--engine", "sim", "--reasoning-parser", "none") as server:
        message = ask(server.url).json()["choices"][0]["message"]
        assert message["content"]
        assert "reasoning" not in message


def test_a_model_that_cannot_think_says_so(server_url: str) -> None:
    answer = ask(server_url, reasoning_effort="high")
    assert (answer.status, answer.json()["error"]["param"]) == (400, "reasoning_effort")
    assert ask(server_url, reasoning_effort="none").status == 200


def test_the_tokens_of_a_message_are_counted_with_the_thought_that_its_format_closes(thinker: str) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}
    format = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    counts = []
    for fields in ({}, format):
        counted = post(f"{thinker}/v1/messages/count_tokens", chat | fields).json()["input_tokens"]
        usage = post(f"{thinker}/v1/messages", chat | fields | {"max_tokens": 4}).json()["usage"]
        assert counted == usage["input_tokens"] + usage["cache_read_input_tokens"]
        counts.append(counted)
    assert counts[1] > counts[0]


def test_a_count_of_tools_that_cannot_be_called_is_an_error_of_the_client(thinker: str) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "tool_choice": {"type": "tool", "name": "f"}}
    assert post(f"{thinker}/v1/messages/count_tokens", body).status == 400
