"""What a model thinks is an item of a response and a block of a message, and can be switched off in both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

from bench.serving import serve
from server.config import BUNDLED_MODEL
from tests.e2e.test_openai_reasoning import TEMPLATE

MORE = {"ignore_eos": True, "seed": 1, "temperature": 0}


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A template that opens a thought."""
    folder: Path = tmp_path_factory.mktemp("thinker")
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).symlink_to(BUNDLED_MODEL / name)
    config = json.loads((BUNDLED_MODEL / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    with serve("--model", str(folder), "--engine", "sim") as server:
        yield server.url


def test_a_thought_is_an_item_of_its_own_streamed_or_not(thinker: str) -> None:
    with OpenAI(base_url=f"{thinker}/v1", api_key="none", max_retries=0) as client:
        fields: Any = {
            "model": client.models.list().data[0].id,
            "input": "Hi",
            "max_output_tokens": 8,
            "extra_body": MORE,
        }
        whole = client.responses.create(**fields)
        events = list(client.responses.create(**fields, stream=True))
        (item,) = whole.output
        assert item.type == "reasoning"
        assert item.content is not None
        deltas = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
        assert "".join(deltas) == item.content[0].text != ""
        assert whole.usage is not None
        assert whole.usage.output_tokens_details.reasoning_tokens == 8
        again = client.responses.create(**fields | {"input": "And?"}, previous_response_id=whole.id)
        assert again.output
        silent = client.responses.create(**fields, reasoning={"effort": "none"})
        assert [item.type for item in silent.output] == ["message"]


def test_a_thought_is_a_block_of_its_own_streamed_or_not(thinker: str) -> None:
    with Anthropic(base_url=thinker, api_key="none", max_retries=0) as client:
        fields: Any = {
            "model": client.models.list().data[0].id,
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 8,
            "extra_body": MORE,
        }
        whole = client.messages.create(**fields, thinking={"type": "adaptive"})
        with client.messages.stream(**fields) as stream:
            parts = [event.thinking for event in stream if event.type == "thinking"]
        (block,) = whole.content
        assert block.type == "thinking"
        assert "".join(parts) == block.thinking != ""
        hidden = client.messages.create(**fields, thinking={"type": "adaptive", "display": "omitted"})
        assert not any(block.type == "thinking" for block in hidden.content)
        silent = client.messages.create(**fields, thinking={"type": "disabled"})
        assert [block.type for block in silent.content] == ["text"]
        turns = [*fields["messages"], {"role": "assistant", "content": whole.content}, *fields["messages"]]
        assert client.messages.create(**fields | {"messages": turns}).content
