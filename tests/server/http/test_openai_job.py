from __future__ import annotations

from pathlib import Path

import pytest

from compat.openai.encoder import Prompt
from compat.openai.hints import Hints
from engine.types import Key, Urgency
from server.errors import BadRequest
from server.http.choices import room
from server.http.openai_job import objective
from server.model_card import ModelCard
from server.scheduler.app_scheduler import AppScheduler
from server.scheduler.events import Dispatch, EngineUp, TaskReady, TaskSpec

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
    ("hints", "urgency"),
    [
        (Hints(), Urgency.LATENCY),
        (Hints(priority=-5), Urgency.LATENCY),
        (Hints(patient=True), Urgency.THROUGHPUT),
        (Hints(patient=True, priority=3), Urgency.THROUGHPUT),
    ],
)
def test_the_patient_give_way(hints: Hints, urgency: Urgency) -> None:
    assert objective(hints).urgency == urgency


def test_a_smaller_priority_has_an_earlier_place_in_the_schedulers_order() -> None:
    """Of requests that came at the same time."""

    def key(rank: int) -> Key:
        scheduler = AppScheduler()
        spec = TaskSpec(
            task_id=1,
            app="a",
            num_tokens=10,
            max_tokens=10,
            objective=objective(Hints(priority=rank, patient=rank > 0)),
        )
        scheduler.handle(EngineUp(0, 1000, 4), 0.0)
        (dispatch,) = scheduler.handle(TaskReady(spec), 0.0)
        assert isinstance(dispatch, Dispatch)
        return dispatch.key

    ranks = [-(2**31), -9, -2, -1, 0, 1, 2, 10, 2**31]
    assert [key(rank) for rank in ranks] == sorted(key(rank) for rank in ranks)
    assert key(-2) < key(-1) < key(0) < key(1) < key(2)
