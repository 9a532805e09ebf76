"""Log-probabilities of prompts, best_of, and what else a completion may ask for, against a real server."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.plain import post

PROMPT = "Once upon a time, there was a little"
OTHER = "The parrot said"


def complete(url: str, **fields: Any) -> Any:
    answer = post(f"{url}/v1/completions", {"prompt": PROMPT, "max_tokens": 4, "temperature": 0} | fields)
    assert answer.status == 200, answer.body
    return answer


def merged(chunks: list[Any]) -> dict[int, dict[str, Any]]:
    """A stream's choices as a whole answer has them, by index."""
    found: dict[int, dict[str, Any]] = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        into = found.setdefault(choice["index"], {"text": "", "logprobs": None, "ids": []})
        into["text"] += choice["text"]
        into["ids"] += choice.get("token_ids") or []
        into["prompt_ids"] = into.get("prompt_ids") or choice.get("prompt_token_ids")
        into["prompt_logprobs"] = into.get("prompt_logprobs") or choice.get("prompt_logprobs")
        into["finish_reason"] = choice["finish_reason"]
        if choice["logprobs"] is not None:
            lists = into["logprobs"] or {}
            into["logprobs"] = {name: lists.get(name, []) + part for name, part in choice["logprobs"].items()}
    return found


def test_a_greedy_output_is_scored_as_a_prompt_as_it_was_when_it_was_chosen(
    client: OpenAI, model: str, server_url: str
) -> None:
    first = complete(server_url, logprobs=3, return_token_ids=True).json()["choices"][0]
    ids = first["prompt_token_ids"] + first["token_ids"]
    again = complete(server_url, prompt=ids, max_tokens=0, echo=True, logprobs=3)
    choice = again.json()["choices"][0]
    count = len(first["token_ids"])
    for name in ("tokens", "token_logprobs", "top_logprobs"):
        assert choice["logprobs"][name][-count:] == first["logprobs"][name]
    assert again.json()["usage"]["completion_tokens"] == 0
    assert choice["finish_reason"] == "length"


def test_a_harness_gets_the_likelihood_of_a_continuation(client: OpenAI, model: str) -> None:
    """As lm-evaluation-harness asks: the prompt echoed with its log-probabilities, nothing generated."""
    answer = client.completions.create(
        model=model, prompt=[PROMPT, OTHER], max_tokens=0, echo=True, logprobs=1, temperature=0
    )
    for choice, prompt in zip(answer.choices, (PROMPT, OTHER), strict=True):
        assert choice.text == prompt
        assert choice.logprobs is not None
        scores: list[float | None] = [*(choice.logprobs.token_logprobs or ())]
        assert "".join(choice.logprobs.tokens or ()).endswith(prompt)
        assert scores[0] is None
        assert all(value is not None and value <= 0 for value in scores[1:])


def test_prompt_logprobs_do_not_depend_on_the_cache(server_url: str) -> None:
    prompt = PROMPT + " fox who lived by the river and sang all day." * 12
    first = complete(server_url, prompt=prompt, prompt_logprobs=2).json()
    second = complete(server_url, prompt=prompt, prompt_logprobs=2).json()
    plain = complete(server_url, prompt=prompt).json()
    assert first["choices"] == second["choices"]
    assert first["choices"][0]["text"] == plain["choices"][0]["text"]
    assert plain["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    places = first["choices"][0]["prompt_logprobs"]
    assert len(places) == first["usage"]["prompt_tokens"]
    assert places[0] is None
    for place in places[1:]:
        assert 2 <= len(place) <= 3
        assert min(entry["rank"] for entry in place.values()) == 1


def test_a_chat_has_the_logprobs_of_its_prompt_once(server_url: str) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "prompt_logprobs": 1, "n": 2}
    whole = post(f"{server_url}/v1/chat/completions", body).json()
    assert len(whole["prompt_logprobs"]) == whole["usage"]["prompt_tokens"]
    chunks = post(f"{server_url}/v1/chat/completions", body | {"stream": True}).chunks()
    assert [chunk["prompt_logprobs"] for chunk in chunks if "prompt_logprobs" in chunk] == [
        whole["prompt_logprobs"]
    ]


COMBINATIONS = [
    {"n": n, "prompt": prompt, "echo": echo, "logprobs": logprobs, "return_token_ids": ids}
    for n, prompt, echo, logprobs, ids in itertools.product(
        (1, 3), (PROMPT, [PROMPT, OTHER]), (False, True), (None, 2), (False, True)
    )
]


@pytest.mark.parametrize("fields", COMBINATIONS, ids=repr)
def test_every_combination_says_the_same_streamed_or_whole(server_url: str, fields: dict[str, Any]) -> None:
    fields = {**fields, "temperature": 1, "seed": 11, "prompt_logprobs": 1 if fields["n"] == 1 else None}
    whole = complete(server_url, **fields).json()["choices"]
    streamed = merged(complete(server_url, **fields, stream=True).chunks())
    assert [choice["index"] for choice in whole] == sorted(streamed)
    for choice in whole:
        other = streamed[choice["index"]]
        assert other["text"] == choice["text"]
        assert other["logprobs"] == choice["logprobs"]
        assert other["finish_reason"] == choice["finish_reason"]
        assert other["prompt_logprobs"] == choice.get("prompt_logprobs")
        if fields["return_token_ids"]:
            assert (other["ids"], other["prompt_ids"]) == (choice["token_ids"], choice["prompt_token_ids"])


def test_best_of_gives_the_likeliest_of_what_n_would_have_given(server_url: str) -> None:
    fields = {"temperature": 1, "seed": 3, "max_tokens": 6, "ignore_eos": True, "logprobs": 0}
    every = complete(server_url, n=5, **fields).json()["choices"]
    best = complete(server_url, n=2, best_of=5, **fields).json()
    ranked = sorted(every, key=lambda choice: -sum(choice["logprobs"]["token_logprobs"]))
    assert [choice["text"] for choice in best["choices"]] == [choice["text"] for choice in ranked[:2]]
    assert best["usage"]["completion_tokens"] == 30
    silent = complete(server_url, best_of=5, **(fields | {"logprobs": None})).json()["choices"]
    assert [(choice["text"], choice["logprobs"]) for choice in silent] == [(ranked[0]["text"], None)]


@pytest.mark.parametrize("stream", [False, True])
def test_a_final_message_is_continued_and_not_repeated(server_url: str, stream: bool) -> None:
    talk = [{"role": "user", "content": "Tell me a story."}]
    url = f"{server_url}/v1/chat/completions"
    body = {
        "messages": talk,
        "max_tokens": 12,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    whole = post(url, body).json()["choices"][0]
    begun = post(f"{server_url}/detokenize", {"tokens": whole["token_ids"][:5]}).json()["prompt"]
    body |= {
        "messages": [*talk, {"role": "assistant", "content": begun}],
        "max_tokens": 7,
        "continue_final_message": True,
        "stream": stream,
    }
    answer = post(url, body)
    choices = [part["choices"][0] for part in (answer.chunks() if stream else [answer.json()])]
    member = "delta" if stream else "message"
    assert (
        begun + "".join(choice[member].get("content") or "" for choice in choices)
        == (whole["message"]["content"])
    )


def test_a_prompt_may_end_without_the_invitation_to_answer(server_url: str) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "return_token_ids": True}
    url = f"{server_url}/v1/chat/completions"
    invited = post(url, body).json()["prompt_token_ids"]
    bare = post(url, body | {"add_generation_prompt": False}).json()["prompt_token_ids"]
    assert invited[: len(bare)] == bare != invited
    both = post(url, body | {"add_generation_prompt": True, "continue_final_message": True})
    assert (both.status, both.json()["error"]["param"]) == (400, "continue_final_message")
