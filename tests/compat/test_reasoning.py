"""Thoughts apart from answers: however a text is cut, and what a client is told of them."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from compat.openai.encoder import Prompt, Shown
from compat.openai.reasoning import Splitter, Thinking, enabled, opened, template_arguments
from compat.openai.tools.encoder import ToolChatEncoder
from compat.openai.tools.parsers import PARSERS, Plain
from server.http.sse import frame
from tests.compat.deltas import HEAD, Step, bytes_of
from tests.golden.files import check_golden

CASES = [
    ("<think>\nso it is\n</think>\n\nYes.", False, "so it is", "Yes."),
    ("so it is\n</think>\n\nYes.", True, "so it is", "Yes."),
    ("  <think>a</think>b", False, "a", "b"),
    ("Yes. <think>no thought</think>", False, "", "Yes. <think>no thought</think>"),
    ("  blanks first", False, "", "  blanks first"),
    ("<think>\n\n</think>\n\nYes.", False, "", "Yes."),
    ("<think>\n\n</think>\n\n", False, "", ""),
    ("<think> cut of", False, "cut of", ""),
    ("<think> a < b </thin k> ", False, "a < b </thin k>", ""),
    ("a </thi", True, "a </thi", ""),
    ("<thin", False, "", "<thin"),
    ("a</think>b</think>c", True, "a", "b</think>c"),
    ("", True, "", ""),
    ("   ", False, "", "   "),
]


def split(pieces: list[str], opened: bool) -> tuple[str, str]:
    splitter = Splitter(opened)
    parts = [*map(splitter.push, pieces), splitter.finish()]
    return "".join(part[0] for part in parts), "".join(part[1] for part in parts)


def cut(text: str, places: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[begin:end] for begin, end in itertools.pairwise(edges)]


@pytest.mark.parametrize(("text", "opened", "reasoning", "content"), CASES)
def test_a_thought_is_told_from_its_answer(text: str, opened: bool, reasoning: str, content: str) -> None:
    assert split([text], opened) == (reasoning, content)
    assert split(list(text), opened) == (reasoning, content)


@given(
    st.text(alphabet=st.sampled_from(list("<think>/ \na")), max_size=40),
    st.lists(st.integers(0, 50)),
    st.booleans(),
)
def test_the_parts_do_not_depend_on_how_the_text_is_cut(text: str, places: list[int], opened: bool) -> None:
    whole = split([text], opened)
    assert split(cut(text, places), opened) == whole
    if "<think>" not in text and not opened:
        assert whole == ("", text)


def test_what_can_be_said_is_said_at_once() -> None:
    splitter = Splitter(opened=True)
    assert splitter.push("a b ") == ("a b", "")
    assert splitter.push("c</th") == (" c", "")
    assert splitter.push("ink>") == ("", "")
    assert splitter.push("\nd") == ("", "d")


def test_the_chat_template_tells_whether_a_model_thinks() -> None:
    assert enabled("auto", "{{ '</think>' }}")
    assert not enabled("auto", "{{ messages }}")
    assert not enabled("none", "{{ '</think>' }}")
    assert enabled("think", "")


def test_a_prompt_may_have_opened_the_thought() -> None:
    assert opened("<|assistant|><think>\n")
    assert not opened("<|assistant|><think>\n\n</think>\n\n")
    assert not opened("what does <think> mean?<|assistant|>")
    assert opened("...", "<think>because")
    assert not opened("...<think>", "<think>a</think>because")


@pytest.mark.parametrize(
    ("effort", "template", "arguments"),
    [
        (None, "", {}),
        ("none", "", {}),
        ("low", "", None),
        ("low", "reasoning_effort", {"reasoning_effort": "low"}),
        ("none", "{% if enable_thinking is defined %}", {"enable_thinking": False}),
        ("high", "{% if enable_thinking is defined %}", {"enable_thinking": True}),
        ("high", "{% if thinking is defined %}", {"thinking": True}),
    ],
)
def test_an_effort_is_what_the_template_makes_of_it(
    effort: str | None, template: str, arguments: object
) -> None:
    assert template_arguments(effort, template) == arguments


THOUGHTFUL = (
    Step("<think>", (1,), cached_tokens=2),
    Step("hm ", (1,)),
    Step("well</think>\n\n", (1, 1)),
    Step("Yes", (2,)),
    Step("", (), (), "stop"),
)


def encoder(thinking: Thinking, *, tools: bool = False, shown: Shown | None = None) -> ToolChatEncoder:
    parser = PARSERS["hermes"] if tools else Plain
    return ToolChatEncoder(
        HEAD, [Prompt((1, 2))], 1, shown or Shown(usage=True), bytes_of, parser, thinking=thinking
    )


def chunks(encoder: ToolChatEncoder, steps: tuple[Step, ...]) -> list[ChatCompletionChunk]:
    found = [chunk for step in steps for chunk in encoder.feed(0, step)] + encoder.end()
    return [ChatCompletionChunk.model_validate_json(chunk) for chunk in found]


def whole(encoder: ToolChatEncoder, steps: tuple[Step, ...]) -> ChatCompletion:
    for step in steps:
        encoder.collect(0, step)
    return ChatCompletion.model_validate_json(encoder.answer())


def test_reasoning_is_streamed_by_both_of_its_names() -> None:
    *deltas, usage = chunks(encoder(Thinking()), THOUGHTFUL)
    told = [chunk.choices[0].delta.model_dump(exclude_none=True) for chunk in deltas]
    assert "".join(delta.get("reasoning_content", "") for delta in told) == "hm well"
    assert "".join(delta.get("reasoning", "") for delta in told) == "hm well"
    assert "".join(delta.get("content") or "" for delta in told) == "Yes"
    assert usage.usage is not None
    assert usage.usage.completion_tokens_details is not None
    assert usage.usage.completion_tokens_details.reasoning_tokens == 4
    assert usage.usage.completion_tokens == 5


def test_an_answer_has_its_reasoning_beside_it() -> None:
    message = whole(encoder(Thinking()), THOUGHTFUL).choices[0].message
    assert message.content == "Yes"
    assert message.model_dump()["reasoning_content"] == message.model_dump()["reasoning"] == "hm well"


def test_reasoning_that_nobody_wants_is_counted_and_left_out() -> None:
    answer = whole(encoder(Thinking(shown=False)), THOUGHTFUL)
    assert "reasoning_content" not in answer.choices[0].message.model_dump()
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 4


def test_a_call_may_follow_a_thought_and_one_within_it_is_none() -> None:
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    steps = (Step(f"maybe {call}?</think>{call}", (1,)), Step("", (), (), "stop"))
    choice = whole(encoder(Thinking(opened=True), tools=True), steps).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    assert len(choice.message.tool_calls) == 1
    assert choice.message.model_dump()["reasoning"] == f"maybe {call}?"


def test_a_model_that_does_not_think_has_no_such_members() -> None:
    plain = json.loads(
        ToolChatEncoder(HEAD, [Prompt((1,))], 1, Shown(), bytes_of, Plain).feed(0, Step("x", (1,)))[0]
    )
    assert plain["choices"][0]["delta"] == {"role": "assistant", "content": "x"}


def test_a_stream_with_reasoning_is_byte_for_byte_as_recorded() -> None:
    making = encoder(Thinking())
    said = [chunk for step in THOUGHTFUL for chunk in making.feed(0, step)] + making.end()
    check_golden("chat-reasoning.sse", b"".join(map(frame, [*said, b"[DONE]"])))
