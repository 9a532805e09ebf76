"""The `openai` package against a real server: unchanged programs, and what they rely on."""

from __future__ import annotations

import asyncio

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionContentPartTextParam, ChatCompletionMessageParam

from tests.e2e.plain import get, post

PROMPT = "Once upon a time, there was a little"


def test_models_are_listed_and_found(client: OpenAI, model: str, server_url: str) -> None:
    assert client.models.retrieve(model).id == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/other")
    (card,) = get(f"{server_url}/v1/models").json()["data"]
    assert card["max_model_len"] > 0
    assert card["permission"]
    assert card["root"]


def test_a_completion_is_the_same_streamed_or_not(client: OpenAI, model: str) -> None:
    whole = client.completions.create(model=model, prompt=PROMPT, max_tokens=24, temperature=0)
    stream = client.completions.create(model=model, prompt=PROMPT, max_tokens=24, temperature=0, stream=True)
    chunks = list(stream)
    assert whole.choices[0].text == "".join(chunk.choices[0].text for chunk in chunks) != ""
    assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason
    assert whole.usage is not None
    assert 0 < whole.usage.completion_tokens <= 24
    assert whole.id.startswith("cmpl-")


def test_max_tokens_is_16_by_default_and_for_null(model: str, server_url: str) -> None:
    body = {"model": model, "prompt": PROMPT, "ignore_eos": True}
    for extra in ({}, {"max_tokens": None}):
        answer = post(f"{server_url}/v1/completions", body | extra).json()
        assert answer["usage"]["completion_tokens"] == 16
        assert answer["choices"][0]["finish_reason"] == "length"


def test_a_chat_is_the_same_streamed_or_not(client: OpenAI, model: str) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me a story."}]
    whole = client.chat.completions.create(model=model, messages=messages, max_tokens=24, temperature=0)
    stream = client.chat.completions.create(
        model=model, messages=messages, max_tokens=24, temperature=0, stream=True
    )
    chunks = list(stream)
    assert whole.choices[0].message.content == "".join(
        chunk.choices[0].delta.content or "" for chunk in chunks
    )
    assert whole.choices[0].message.role == chunks[0].choices[0].delta.role == "assistant"
    assert whole.id.startswith("chatcmpl-")


def test_content_may_be_text_parts(client: OpenAI, model: str) -> None:
    def ask(content: str | list[ChatCompletionContentPartTextParam]) -> str | None:
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": content}],
            max_completion_tokens=8,
            temperature=0,
        )
        return answer.choices[0].message.content

    assert ask("Hello") == ask([{"type": "text", "text": "Hello"}])


def test_usage_comes_last_and_only_when_asked(model: str, server_url: str) -> None:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 4, "stream": True, "ignore_eos": True}
    plain = post(f"{server_url}/v1/completions", body).chunks()
    assert not any("usage" in chunk for chunk in plain)
    asked = post(f"{server_url}/v1/completions", body | {"stream_options": {"include_usage": True}})
    *chunks, last = asked.chunks()
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 4
    assert "cached_tokens" in last["usage"]["prompt_tokens_details"]


def test_a_second_time_the_prompt_is_cached(client: OpenAI, model: str) -> None:
    prompt = PROMPT + " parrot who liked to repeat what the children said." * 20
    for _ in range(2):
        answer = client.completions.create(model=model, prompt=prompt, max_tokens=1)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert (answer.usage.prompt_tokens_details.cached_tokens or 0) > answer.usage.prompt_tokens // 2


@pytest.mark.parametrize("stream", [False, True])
def test_n_choices_are_different_samples_with_their_index(client: OpenAI, model: str, stream: bool) -> None:
    texts = ["", "", ""]
    if stream:
        for chunk in client.completions.create(
            model=model, prompt=PROMPT, max_tokens=16, n=3, seed=5, temperature=1, stream=True
        ):
            texts[chunk.choices[0].index] += chunk.choices[0].text
    else:
        whole = client.completions.create(
            model=model, prompt=PROMPT, max_tokens=16, n=3, seed=5, temperature=1
        )
        for choice in whole.choices:
            texts[choice.index] = choice.text
    assert len(set(texts)) == 3
    alone = client.completions.create(model=model, prompt=PROMPT, max_tokens=16, seed=5, temperature=1)
    assert alone.choices[0].text == texts[0]


def test_a_seed_repeats_and_another_does_not(client: OpenAI, model: str) -> None:
    def sample(seed: int) -> str:
        answer = client.completions.create(
            model=model, prompt=PROMPT, max_tokens=24, temperature=1, seed=seed
        )
        return answer.choices[0].text

    assert sample(1) == sample(1) != sample(2)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_text_before_it(
    client: OpenAI, model: str, server_url: str, stream: bool
) -> None:
    full = client.completions.create(model=model, prompt=PROMPT, max_tokens=24, temperature=0).choices[0].text
    stop = full[7:12]
    body = {
        "model": model,
        "prompt": PROMPT,
        "max_tokens": 24,
        "temperature": 0,
        "stop": [stop],
        "stream": stream,
    }
    answer = post(f"{server_url}/v1/completions", body)
    parts = answer.chunks() if stream else [answer.json()]
    choices = [part["choices"][0] for part in parts]
    assert "".join(choice["text"] for choice in choices) == full[: full.index(stop)]
    assert (choices[-1]["finish_reason"], choices[-1]["stop_reason"]) == ("stop", stop)
    kept = post(f"{server_url}/v1/completions", body | {"include_stop_str_in_output": True, "stream": False})
    assert kept.json()["choices"][0]["text"] == full[: full.index(stop) + len(stop)]


def test_completion_logprobs_have_the_old_shape(client: OpenAI, model: str) -> None:
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=6, temperature=0, logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert logprobs.top_logprobs is not None
    assert logprobs.token_logprobs is not None
    for token, logprob, top in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
    ):
        assert max(top.values()) == top[token] == logprob <= 0


@pytest.mark.parametrize("stream", [False, True])
def test_chat_logprobs_have_the_new_shape(client: OpenAI, model: str, server_url: str, stream: bool) -> None:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 6,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 3,
        "stream": stream,
    }
    answer = post(f"{server_url}/v1/chat/completions", body)
    parts = answer.chunks() if stream else [answer.json()]
    content = [token for part in parts for token in part["choices"][0]["logprobs"]["content"]]
    member = "delta" if stream else "message"
    text = "".join(part["choices"][0][member].get("content") or "" for part in parts)
    assert b"".join(bytes(token["bytes"]) for token in content).decode(errors="replace") == text
    assert all(len(token["top_logprobs"]) == 3 for token in content)


def test_every_form_of_prompt_gives_the_same_text(client: OpenAI, model: str, server_url: str) -> None:
    ids = post(f"{server_url}/tokenize", {"prompt": PROMPT}).json()["tokens"]
    assert post(f"{server_url}/detokenize", {"tokens": ids}).json()["prompt"].endswith(PROMPT)
    answers = [
        client.completions.create(model=model, prompt=prompt, max_tokens=8, temperature=0)
        for prompt in (PROMPT, [PROMPT, PROMPT], ids, [ids, ids])
    ]
    assert [len(answer.choices) for answer in answers] == [1, 2, 1, 2]
    assert len({choice.text for answer in answers for choice in answer.choices}) == 1


def test_echo_puts_the_prompt_in_front(client: OpenAI, model: str) -> None:
    plain = client.completions.create(model=model, prompt=PROMPT, max_tokens=4, temperature=0)
    echo = client.completions.create(model=model, prompt=PROMPT, max_tokens=4, temperature=0, echo=True)
    assert echo.choices[0].text == PROMPT + plain.choices[0].text


async def test_many_async_streams_run_side_by_side(model: str, server_url: str) -> None:
    async with AsyncOpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0) as client:

        async def stream(seed: int) -> str:
            chunks = await client.completions.create(
                model=model, prompt=PROMPT, max_tokens=12, seed=seed, temperature=1, stream=True
            )
            return "".join([chunk.choices[0].text async for chunk in chunks])

        together = await asyncio.gather(*map(stream, range(8)))
        assert [await stream(seed) for seed in range(3)] == together[:3]


def test_errors_are_the_package_s_own_and_name_the_field(client: OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt-nope", prompt="x")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.completions.create(model=model, prompt="x", temperature=-1)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as unsupported:
        client.completions.create(model=model, prompt="x", suffix="y")
    assert unsupported.value.param == "suffix"


@pytest.mark.parametrize(
    ("endpoint", "fields", "param"),
    [
        ("completions", {"prompt": "x", "max_tokens": 10**7}, "max_tokens"),
        ("completions", {"prompt": "word " * 20_000}, "prompt"),
        ("completions", {"prompt": ""}, None),
        ("completions", {"prompt": [2**40]}, "prompt"),
        ("completions", {"prompt": [-1]}, "prompt"),
        ("completions", {"prompt": {"a": 1}}, "prompt"),
        ("completions", {"prompt": "x", "n": 65}, "n"),
        ("completions", {"prompt": "x", "stop": ["a"] * 1000}, "stop"),
        ("completions", {"prompt": "x", "top_p": "high"}, "top_p"),
        ("completions", {"prompt": "x", "stream_options": {}}, "stream_options"),
        ("chat/completions", {"messages": []}, "messages"),
        ("chat/completions", {"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ("chat/completions", {"messages": [{"role": "user", "content": "word " * 20_000}]}, "messages"),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": "x"}], "tools": [{}]},
            "tools[0].function",
        ),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "poem"}},
            "response_format.type",
        ),
    ],
)
def test_a_bad_request_names_its_field(
    server_url: str, endpoint: str, fields: dict[str, object], param: str | None
) -> None:
    answer = post(f"{server_url}/v1/{endpoint}", fields)
    assert answer.status == 400 or param is None
    error = answer.json().get("error", {})
    assert param is None or error["param"] == param
    if fields.get("prompt") == "word " * 20_000:
        assert error["code"] == "context_length_exceeded"


def test_a_running_request_can_be_cancelled_by_its_id(sim_url: str) -> None:
    with OpenAI(base_url=f"{sim_url}/v1", api_key="none", max_retries=0) as client:
        chunks = client.completions.create(
            model=client.models.list().data[0].id,
            prompt=PROMPT,
            max_tokens=1500,
            stream=True,
            extra_body={"ignore_eos": True},
            extra_headers={"X-Request-Id": "mine"},
        )
        assert next(chunks).id == "cmpl-mine"
        assert post(f"{sim_url}/v1/requests/cmpl-mine/cancel", b"").status == 200
        with pytest.raises(openai.APIError, match="cancelled"):
            list(chunks)
    assert post(f"{sim_url}/v1/requests/cmpl-mine/cancel", b"").status == 404


def test_everything_else_under_v1_is_a_clear_404(server_url: str) -> None:
    answer = post(f"{server_url}/v1/embeddings", {})
    assert answer.status == 404
    assert answer.json()["error"]["code"] == "unknown_url"
