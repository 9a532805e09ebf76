"""Structured output from a real server: the `openai` package's ways of asking, vLLM's, and a variable's format."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel, ConfigDict, Field

from tests.e2e.api import Api
from tests.e2e.plain import post

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Who is the hero?"}]


class Pet(BaseModel):
    kind: Literal["parrot", "cat"]
    legs: Literal[2, 4]
    tame: bool


class Hero(BaseModel):
    name: Literal["Lumi", "Pip"]
    pets: tuple[Pet, Pet]


class Cat(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["cat"]
    lives: Literal[7, 9]


class Dog(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["dog"]
    good: bool


class Owner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    pet: Cat | Dog = Field(discriminator="kind")


def complete(url: str, **fields: object) -> Any:
    body = {"prompt": "Once upon a time", "max_tokens": 100} | fields
    answer = post(f"{url}/v1/completions", body)
    assert answer.status == 200, answer.body
    return answer.json()["choices"]


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_pydantic_model_comes_back_parsed(client: OpenAI, model: str, temperature: float) -> None:
    answer = client.chat.completions.parse(
        model=model, messages=MESSAGES, response_format=Hero, temperature=temperature, max_tokens=500
    )
    assert isinstance(answer.choices[0].message.parsed, Hero)
    assert answer.choices[0].finish_reason == "stop"


def test_the_streaming_parser_reads_it_too(client: OpenAI, model: str) -> None:
    with client.chat.completions.stream(
        model=model, messages=MESSAGES, response_format=Hero, max_tokens=500, temperature=0
    ) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Hero)


@pytest.mark.parametrize("engine", ["server_url", "sim_url"])
@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"structured_outputs": {"regex": "[a-c]{3}-[0-9]{2}"}}, "[a-c]{3}-[0-9]{2}"),
        ({"guided_regex": "x{4}"}, "xxxx"),
        ({"guided_choice": ["red fish", "blue fish"]}, "(red|blue) fish"),
        ({"structured_outputs": {"choice": ["é", "\n"]}}, "é|\n"),
        ({"structured_outputs": {"grammar": 'start: "a" b\nb: "b" | "c" d\nd: "b" | "c" "b"'}}, "ac{0,2}b"),
        ({"guided_grammar": 'root ::= "a" ("b" | "c")'}, "a[bc]"),
        ({"guided_json": {"enum": [1, "two"]}}, '1|"two"'),
    ],
)
def test_every_kind_holds_on_both_engines(
    engine: str, fields: dict[str, object], pattern: str, request: pytest.FixtureRequest
) -> None:
    (choice,) = complete(request.getfixturevalue(engine), **fields)
    assert re.fullmatch(pattern, choice["text"]), choice["text"]
    assert choice["finish_reason"] == "stop"


def test_a_seed_repeats_and_choices_differ(server_url: str) -> None:
    fields = {"guided_regex": "[a-z]{12}", "n": 3, "seed": 5, "temperature": 1, "logprobs": 1}
    first, second = complete(server_url, **fields), complete(server_url, **fields)
    texts = [choice["text"] for choice in first]
    assert texts == [choice["text"] for choice in second]
    assert len(set(texts)) == 3
    assert all("".join(choice["logprobs"]["tokens"]) == choice["text"] for choice in first)


def test_json_object_is_an_object_whenever_it_ends(server_url: str) -> None:
    choices = complete(server_url, response_format={"type": "json_object"}, n=8, seed=1, max_tokens=300)
    ended = [choice for choice in choices if choice["finish_reason"] == "stop"]
    assert all(isinstance(json.loads(choice["text"]), dict) for choice in ended)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_regex": "a" * 70_000}, "guided_regex"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}},
            "response_format.json_schema.schema",
        ),
        ({"structured_outputs": {"grammar": "start: nope"}}, "structured_outputs.grammar"),
        ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos"),
        ({"guided_regex": "a", "min_tokens": 2}, "min_tokens"),
    ],
)
def test_what_cannot_be_followed_is_a_bad_request(
    server_url: str, fields: dict[str, object], param: str
) -> None:
    answer = post(f"{server_url}/v1/completions", {"prompt": "x", **fields})
    assert answer.status in (400, 413)
    assert answer.json()["error"]["param"] == param


def test_a_grammar_that_only_the_engine_finds_too_much_is_a_bad_request_too(server_url: str) -> None:
    properties = {f"p{i}": {"type": "string", "pattern": "^[a-z]{1,40}$"} for i in range(900)}
    answer = post(
        f"{server_url}/v1/completions",
        {"prompt": "x", "guided_json": {"type": "object", "properties": properties}},
    )
    assert (answer.status, answer.json()["error"]["code"]) == (400, "invalid_constraint")


def test_a_variable_s_format_is_kept(api: Api) -> None:
    call = {
        "prompt": "Is it a fish? {{output:kind}} And how many? {{output:count}}",
        "placeholders": [
            {"name": "kind", "format": {"type": "choice", "choices": ["yes", "no"]}},
            {"name": "count", "format": {"type": "regex", "regex": "[1-9]"}},
        ],
    }
    answer = api("POST", "/v1/programs", {"calls": [call], "get": {"kind": None, "count": None}, "wait": 30})
    assert answer.status == 200, answer.body
    assert answer.body["values"]["kind"] in ("yes", "no")
    assert answer.body["values"]["count"] in "123456789"


def test_allowed_ids_and_bad_words_are_honoured(server_url: str) -> None:
    ids = post(f"{server_url}/tokenize", {"prompt": "abc"}).json()["tokens"]
    (choice,) = complete(server_url, allowed_token_ids=ids, return_token_ids=True, max_tokens=20)
    assert {*choice["token_ids"]} <= {*ids}
    fields = {"temperature": 0, "max_tokens": 12}
    (plain,) = complete(server_url, **fields)
    word = plain["text"].split()[1]
    (without,) = complete(server_url, bad_words=[word], **fields)
    assert without["text"] != plain["text"]
    assert word not in without["text"].split()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [10**9]}, "allowed_token_ids"),
        ({"bad_words": [""]}, "bad_words"),
        ({"bad_words": ["a"] * 129}, "bad_words"),
        ({"bad_words": "a"}, "bad_words"),
    ],
)
def test_restrictions_out_of_range_are_named(server_url: str, fields: dict[str, object], param: str) -> None:
    answer = post(f"{server_url}/v1/completions", {"prompt": "x", **fields})
    assert answer.status == 400
    assert answer.json()["error"]["param"] == param


def test_a_union_that_pydantic_tells_apart_is_parsed(client: OpenAI, model: str) -> None:
    """Its schema says oneOf, and refers to the members."""
    answer = client.chat.completions.parse(
        model=model, messages=MESSAGES, response_format=Owner, max_tokens=100, seed=1
    )
    assert isinstance(answer.choices[0].message.parsed, Owner)
    raw = {"type": "json_schema", "json_schema": {"name": "owner", "schema": Owner.model_json_schema()}}
    assert "oneOf" in json.dumps(raw)
    again = client.chat.completions.create(
        model=model, messages=MESSAGES, extra_body={"response_format": raw}, max_tokens=400, seed=1
    )
    Owner.model_validate_json(again.choices[0].message.content or "")
