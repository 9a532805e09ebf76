from __future__ import annotations

from pathlib import Path

import pytest

from compat.openai.common import GenerationFields
from compat.openai.encoder import Prompt
from engine.types import Urgency
from server.errors import BadRequest
from server.http.openai_job import objective, room
from server.model_card import ModelCard

CARD = ModelCard("tiny", ("tiny",), Path(), 100, 0.0)


def prompt(length: int) -> Prompt:
    return Prompt(range(length))


def test_an_output_without_a_limit_may_fill_the_context() -> None:
    assert room(CARD, prompt(40), None, "messages") == 60
    assert room(CARD, prompt(40), 60, "messages") == 60


@pytest.mark.parametrize(
    ("length", "limit", "param"),
    [(40, 61, "max_tokens"), (100, 1, "messages"), (100, None, "messages"), (500, 10, "messages")],
)
def test_what_does_not_fit_the_context_is_refused_as_openai_does(
    length: int, limit: int | None, param: str
) -> None:
    with pytest.raises(BadRequest, match="maximum context length is 100 tokens") as caught:
        room(CARD, prompt(length), limit, "messages")
    assert (caught.value.info.param, caught.value.info.code) == (param, "context_length_exceeded")


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(BadRequest, match="no tokens"):
        room(CARD, prompt(0), 5, "prompt")


@pytest.mark.parametrize(
    ("fields", "urgency"),
    [
        (GenerationFields(), Urgency.LATENCY),
        (GenerationFields(service_tier="auto", priority=0), Urgency.LATENCY),
        (GenerationFields(priority=-5), Urgency.LATENCY),
        (GenerationFields(service_tier="flex"), Urgency.THROUGHPUT),
        (GenerationFields(priority=3), Urgency.THROUGHPUT),
    ],
)
def test_flex_and_a_later_priority_give_way(fields: GenerationFields, urgency: Urgency) -> None:
    assert objective(fields).urgency == urgency
