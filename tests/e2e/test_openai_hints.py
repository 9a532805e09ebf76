"""What plain OpenAI calls say about themselves, and what the scheduler makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bench.serving import serve
from tests.e2e.plain import get, post

TURN = list(range(1000, 1300))


@pytest.fixture(scope="module")
def small() -> Iterator[str]:
    """A simulated engine with room for a thousand tokens."""
    with serve("--engine", "sim", "--kv-cache-memory", "1M", "--max-model-len", "900") as server:
        yield server.url


def complete(url: str, prompt: object, **fields: Any) -> Any:
    body = {"prompt": prompt, "max_tokens": 4, "ignore_eos": True} | fields
    answer = post(f"{url}/v1/completions", body)
    assert answer.status == 200, answer.body
    return answer.json()


def cached_after_others(url: str, first: int, **fields: Any) -> int:
    """How much of a conversation is still there at its next turn, when others have used all the memory since."""
    turn = [first, *TURN]
    complete(url, turn, **fields)
    for other in range(4):
        complete(url, [first + 1 + other, *range(2000, 2220)])
    again = complete(url, [*turn, 7, 8, 9], **fields)
    cached: int = again["usage"]["prompt_tokens_details"]["cached_tokens"]
    return cached


def test_a_program_keeps_its_cache_between_its_calls_for_a_while(small: str) -> None:
    assert cached_after_others(small, 400) == 0
    assert cached_after_others(small, 500, program_id="p") >= 256
    assert cached_after_others(small, 600, session_id="s") >= 256


def test_calls_of_a_program_are_one_application(sim_url: str) -> None:
    ids = [complete(sim_url, "x", program_id="three-calls")["id"] for _ in range(3)]
    told = get(f"{sim_url}/v1/admin/story/three-calls").json()["tasks"]
    assert len(told) == len(ids)
    other = complete(sim_url, "x")["id"]
    assert len(get(f"{sim_url}/v1/admin/story/{other}").json()["tasks"]) == 1


@pytest.mark.parametrize(
    ("fields", "urgency", "tier"),
    [
        ({}, "LATENCY", None),
        ({"service_tier": "flex"}, "THROUGHPUT", "flex"),
        ({"service_tier": "priority"}, "LATENCY", "default"),
        ({"priority": 5}, "THROUGHPUT", None),
        ({"nvext": {"agent_hints": {"priority": 5, "osl": 3}}}, "LATENCY", None),
        ({"nvext": {"agent_hints": {"priority": -5}}}, "THROUGHPUT", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_hint_reaches_the_scheduler_and_the_tier_comes_back(
    sim_url: str, fields: dict[str, object], urgency: str, tier: str | None, stream: bool
) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "stream": stream} | fields
    answer = post(f"{sim_url}/v1/chat/completions", body)
    parts = answer.chunks() if stream else [answer.json()]
    assert {part.get("service_tier") for part in parts} == {tier}
    (story,) = get(f"{sim_url}/v1/admin/story/{parts[0]['id']}").json()["tasks"]
    assert f"urgency {urgency}" in story["story"][0]


def test_a_cache_salt_keeps_a_cache_apart(sim_url: str) -> None:
    prompt = [77, *TURN]

    def cached(**fields: Any) -> int:
        usage = complete(sim_url, prompt, **fields)["usage"]
        found: int = usage["prompt_tokens_details"]["cached_tokens"]
        return found

    assert (cached(), cached() >= 256) == (0, True)
    assert (cached(cache_salt="a"), cached(cache_salt="a") >= 256, cached(cache_salt="b")) == (0, True, 0)
