"""Byte-exact streams and answers of both generation endpoints, and that the `openai` package reads them."""

from __future__ import annotations

import json

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from compat.openai.chat import ChatEncoder
from compat.openai.completions import CompletionEncoder
from compat.openai.encoder import Encoder, Prompt, Shown
from engine.types import TokenLogprobs, TopLogprob
from server.http.sse import frame
from tests.compat.deltas import HEAD, STEPS, Step, bytes_of, likely
from tests.golden.files import check_golden

ENCODERS: dict[str, type[Encoder]] = {"completions": CompletionEncoder, "chat": ChatEncoder}
SHOWN = {
    "plain": Shown(),
    "usage": Shown(usage=True),
    "continuous": Shown(usage=True, continuous_usage=True),
    "logprobs": Shown(logprobs=True),
    "token_ids": Shown(token_ids=True),
    "everything": Shown(logprobs=True, token_ids=True, usage=True, continuous_usage=True),
}
PROMPT = Prompt((1, 2, 3, 4, 5))


def encoder(endpoint: str, shown: Shown, *prompts: Prompt, n: int = 1) -> Encoder:
    return ENCODERS[endpoint](HEAD, prompts or (PROMPT,), n, shown, bytes_of)


def stream(encoder: Encoder, steps: tuple[Step, ...] = STEPS) -> list[bytes]:
    """All choices, a step each in turn."""
    chunks = [
        chunk
        for step in steps
        for index in range(len(encoder.choices))
        for chunk in encoder.feed(index, step)
    ]
    return chunks + encoder.end()


def answer(encoder: Encoder, steps: tuple[Step, ...] = STEPS) -> bytes:
    for step in steps:
        for index in range(len(encoder.choices)):
            encoder.collect(index, step)
    return encoder.answer()


@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize("endpoint", ENCODERS)
def test_streams_are_byte_for_byte_as_recorded(endpoint: str, shown: str) -> None:
    chunks = stream(encoder(endpoint, SHOWN[shown]))
    check_golden(f"{endpoint}-{shown}.sse", b"".join(map(frame, [*chunks, b"[DONE]"])))


@pytest.mark.parametrize("endpoint", ENCODERS)
def test_choices_that_interleave_are_byte_for_byte_as_recorded(endpoint: str) -> None:
    chunks = stream(encoder(endpoint, SHOWN["usage"], n=2))
    check_golden(f"{endpoint}-two.sse", b"".join(map(frame, [*chunks, b"[DONE]"])))


@pytest.mark.parametrize("shown", ["plain", "everything"])
@pytest.mark.parametrize("endpoint", ENCODERS)
def test_answers_are_byte_for_byte_as_recorded(endpoint: str, shown: str) -> None:
    check_golden(f"{endpoint}-{shown}.json", answer(encoder(endpoint, SHOWN[shown], n=2)))


@pytest.mark.parametrize("shown", SHOWN)
def test_the_openai_package_reads_what_we_write(shown: str) -> None:
    for chunk in stream(encoder("chat", SHOWN[shown])):
        ChatCompletionChunk.model_validate_json(chunk)
    Completion.model_validate_json(answer(encoder("completions", SHOWN[shown])))
    ChatCompletion.model_validate_json(answer(encoder("chat", SHOWN[shown])))


@pytest.mark.parametrize("endpoint", ENCODERS)
def test_a_step_is_one_event(endpoint: str) -> None:
    assert len(stream(encoder(endpoint, Shown()))) == len(STEPS)
    assert len(stream(encoder(endpoint, Shown(usage=True)))) == len(STEPS) + 1


@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize("endpoint", ENCODERS)
def test_a_stream_and_an_answer_say_the_same(endpoint: str, shown: str) -> None:
    whole = json.loads(answer(encoder(endpoint, SHOWN[shown], n=2)))
    texts = {0: "", 1: ""}
    finishes: dict[int, tuple[str, str]] = {}
    logprobs: dict[int, list[dict[str, list[object]]]] = {0: [], 1: []}
    for chunk in map(json.loads, stream(encoder(endpoint, SHOWN[shown], n=2))):
        for choice in chunk["choices"]:
            index = choice["index"]
            texts[index] += (
                choice["text"] if endpoint == "completions" else choice["delta"].get("content", "")
            )
            finishes[index] = (choice["finish_reason"], choice.get("stop_reason"))
            logprobs[index].append(choice["logprobs"])
    for choice in whole["choices"]:
        index = choice["index"]
        text = choice["text"] if endpoint == "completions" else choice["message"]["content"]
        assert text == texts[index] == 'Hello"quoted"\n你'
        assert (choice["finish_reason"], choice["stop_reason"]) == finishes[index] == ("stop", "END")
        for member in choice["logprobs"] or ():
            parts = [part[member] for part in logprobs[index] if part[member] is not None]
            assert choice["logprobs"][member] == ([item for part in parts for item in part] or None)


def test_only_the_first_chunk_of_a_choice_has_the_role() -> None:
    chunks = [json.loads(chunk) for chunk in stream(encoder("chat", Shown(), n=2))]
    roles = [(chunk["choices"][0]["index"], chunk["choices"][0]["delta"].get("role")) for chunk in chunks]
    assert roles[:4] == [(0, "assistant"), (1, "assistant"), (0, None), (1, None)]


def test_an_output_that_ends_at_once_has_one_chunk_with_role_and_reason() -> None:
    (chunk,) = map(json.loads, stream(encoder("chat", Shown()), (Step(finish_reason="stop"),)))
    assert chunk["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunk["choices"][0]["finish_reason"] == "stop"


def test_echo_comes_before_every_choice_of_its_own_prompt() -> None:
    prompts = Prompt((1,), echo="A "), Prompt((2,), echo="B ")
    whole = json.loads(
        answer(encoder("completions", Shown(), *prompts, n=2), (Step("x", (1,), (), "length"),))
    )
    assert [choice["text"] for choice in whole["choices"]] == ["A x", "A x", "B x", "B x"]
    chunks = map(json.loads, stream(encoder("completions", Shown(), *prompts), (Step("x"), Step("y"))))
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["A x", "B x", "y", "y"]


def test_usage_counts_a_prompt_once_and_its_smallest_hit() -> None:
    encoder_ = encoder("completions", Shown(), Prompt((1, 2, 3)), Prompt((1, 2)), n=2)
    for index, cached in enumerate([0, 3, 2, 2]):
        encoder_.collect(index, Step("x", (1,), (), "length", cached_tokens=cached))
    assert json.loads(encoder_.answer())["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 4,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


def test_continuous_usage_grows_with_every_chunk() -> None:
    chunks = [json.loads(chunk) for chunk in stream(encoder("chat", SHOWN["continuous"]))]
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 4, 4, 4]
    assert chunks[-1]["choices"] == []


def test_logprobs_name_split_characters_by_their_bytes() -> None:
    legacy = json.loads(answer(encoder("completions", Shown(logprobs=True))))["choices"][0]["logprobs"]
    assert legacy["tokens"] == ["Hello", '"quoted"\n', "bytes:\\x20\\xe4\\xbd", "bytes:\\x20\\xe4\\xbd"]
    assert legacy["token_logprobs"] == [-0.25, -2.0, -1.5, -9999.0]
    assert legacy["text_offset"] == [0, 5, 14, 16]
    assert legacy["top_logprobs"][1] == {"Hello": -0.25, "bytes:\\x20\\xe4\\xbd": -1.5, '"quoted"\n': -2.0}
    chat = json.loads(answer(encoder("chat", Shown(logprobs=True))))["choices"][0]["logprobs"]["content"]
    assert chat[2]["bytes"] == [0x20, 0xE4, 0xBD]
    assert [top["token"] for top in chat[0]["top_logprobs"]] == ["Hello", " \ufffd"]


SCORES = (TokenLogprobs(-0.5, (TopLogprob(2, -0.5), TopLogprob(1, -2.0)), 1), TokenLogprobs(-3.0, (), 7))
SCORED = (Step("Hello", (1,), likely(-0.25), prompt_logprobs=SCORES), Step("", (), (), "stop"))
SHORT = Prompt((1, 2, 3), echo="the prompt")


def test_echoed_logprobs_begin_with_the_prompts_and_the_first_token_has_none() -> None:
    shown = Shown(logprobs=True, echo_logprobs=1)
    choice = json.loads(answer(encoder("completions", shown, SHORT), SCORED))["choices"][0]
    assert choice["text"] == "the promptHello"
    found = choice["logprobs"]
    assert found["token_logprobs"] == [None, -0.5, -3.0, -0.25]
    assert found["top_logprobs"][:2] == [None, {"bytes:\\x20\\xe4\\xbd": -0.5}]
    assert len(found["tokens"]) == len(found["text_offset"]) == 4
    chunks = list(map(json.loads, stream(encoder("completions", shown, SHORT), SCORED)))
    assert chunks[0]["choices"][0]["logprobs"] == found
    assert chunks[1]["choices"][0]["logprobs"]["tokens"] == []


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("endpoint", ENCODERS)
def test_prompt_logprobs_have_vllms_shape(endpoint: str, streamed: bool) -> None:
    making = encoder(endpoint, Shown(prompt_logprobs=1), SHORT)
    said = json.loads(stream(making, SCORED)[0] if streamed else answer(making, SCORED))
    place = said if endpoint == "chat" else said["choices"][0]
    assert place["prompt_logprobs"] == [
        None,
        {"2": {"logprob": -0.5, "rank": 1, "decoded_token": " \ufffd"}},
        {"3": {"logprob": -3.0, "rank": 7, "decoded_token": '"quoted"\n'}},
    ]


def test_what_one_choice_knows_of_its_prompt_holds_for_all() -> None:
    making = encoder("completions", Shown(prompt_logprobs=0), SHORT, n=2)
    making.collect(0, SCORED[0])
    making.collect(1, STEPS[0])
    first, second = json.loads(making.answer())["choices"]
    assert first["prompt_logprobs"] == second["prompt_logprobs"] != [None]


def test_scores_alone_come_without_the_token_that_was_sampled() -> None:
    shown = Shown(logprobs=True, echo_logprobs=0, output=False)
    for said in (
        json.loads(answer(encoder("completions", shown, SHORT), SCORED[:1])),
        json.loads(stream(encoder("completions", shown, SHORT), SCORED[:1])[0]),
    ):
        (choice,) = said["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("the prompt", "length")
        assert choice["logprobs"]["token_logprobs"] == [None, -0.5, -3.0]


def test_the_likeliest_of_each_prompt_are_kept_and_all_are_counted() -> None:
    making = CompletionEncoder(HEAD, [PROMPT, PROMPT], 3, Shown(), bytes_of, keep=2)
    for index, logprob in enumerate([-3.0, -1.0, -2.0, -5.0, -6.0, -4.0]):
        tokens = (1,) * (index + 1)
        making.collect(index, Step(str(index), tokens, (TokenLogprobs(logprob),) * (index + 1), "stop"))
    said = json.loads(making.answer())
    assert [(choice["index"], choice["text"]) for choice in said["choices"]] == [
        (0, "1"),
        (1, "2"),
        (2, "5"),
        (3, "3"),
    ]
    assert said["usage"]["completion_tokens"] == 21


@pytest.mark.parametrize("endpoint", ENCODERS)
def test_streams_that_tell_of_their_prompt_are_byte_for_byte_as_recorded(endpoint: str) -> None:
    shown = Shown(logprobs=True, echo_logprobs=1, prompt_logprobs=1)
    said = stream(encoder(endpoint, shown, SHORT), SCORED)
    check_golden(f"{endpoint}-scores.sse", b"".join(map(frame, [*said, b"[DONE]"])))
