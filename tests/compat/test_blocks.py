"""What an output is as a row of blocks, however it is cut into steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat.blocks import Blocks, Change, Closed, Grown, Opened
from compat.openai.reasoning import Thinking
from compat.openai.tools.calls import Event
from compat.openai.tools.parsers import PARSERS, Named, Plain
from tests.compat.deltas import Step
from tests.compat.written import CALLS, THOUGHT, WRITTEN, steps


def row(blocks: Blocks) -> list[tuple[str, str, str]]:
    return [(block.kind, block.name, block.text) for block in blocks.blocks]


def told(changes: list[Change]) -> list[tuple[str, str, str]]:
    """The row as a client would see it grow; asserts that blocks come one after the other."""
    found: list[tuple[str, str, str]] = []
    is_open = False
    for change in changes:
        match change:
            case Opened(block):
                assert (is_open, block.index) == (False, len(found))
                is_open = True
                found.append((block.kind, block.name, ""))
            case Grown(block, text):
                assert is_open
                assert text
                assert block.index == len(found) - 1
                kind, name, before = found[-1]
                found[-1] = kind, name, before + text
            case Closed(block):
                assert is_open
                assert block.index == len(found) - 1
                is_open = False
    assert not is_open
    return found


@pytest.mark.parametrize("name", WRITTEN)
def test_the_changes_tell_of_what_there_is(name: str) -> None:
    written = WRITTEN[name]
    blocks = written.blocks()
    assert told([change for step in written.steps for change in blocks.feed(step)]) == row(blocks)


@pytest.mark.parametrize("size", [1, 2, 5, 9, 1000])
def test_thoughts_texts_and_calls_keep_their_order_however_they_are_cut(size: int) -> None:
    blocks = Blocks(PARSERS["hermes"](), Thinking())
    for step in steps(THOUGHT + CALLS, size=size):
        blocks.feed(step)
    assert row(blocks) == [
        ("thought", "", "Two and two\nis four."),
        ("text", "", "Four it is, and not five.Well."),
        ("call", "add", '{"a": 1, "s": "}\\"<"}'),
        ("call", "stop", "{}"),
    ]
    assert blocks.calls == 2


@given(st.text('<>/think{}"name:[],arguments_cl x\n', max_size=60), st.integers(1, 7))
def test_no_output_breaks_the_order(text: str, size: int) -> None:
    for parser in (*(make() for make in PARSERS.values()), Plain(), Named("f")):
        blocks = Blocks(parser, Thinking(), most_calls=1)
        changes = [change for step in steps(text, size=size) for change in blocks.feed(step)]
        assert told(changes) == row(blocks)
        assert blocks.blocks
        assert blocks.calls <= 1


def test_text_after_a_call_is_a_block_of_its_own() -> None:
    blocks = Blocks(PARSERS["hermes"]())
    for step in steps('<tool_call>{"name": "f", "arguments": {}}</tool_call>Done.'):
        blocks.feed(step)
    assert row(blocks) == [("call", "f", "{}"), ("text", "", "Done.")]


def test_a_call_too_many_is_left_out_with_its_arguments() -> None:
    blocks = Blocks(PARSERS["hermes"](), most_calls=1)
    for step in steps(CALLS):
        blocks.feed(step)
    assert [name for kind, name, _ in row(blocks) if kind == "call"] == ["add"]


def test_a_name_that_is_said_twice_is_two_calls_and_their_arguments_are_the_last_one_s() -> None:
    class Stutter:
        def push(self, text: str) -> list[Event]:
            return PARSERS["llama3"]().push('{"name": "f", "name": "g", "parameters": {"a": 1}}')

        def finish(self) -> list[Event]:
            return []

    blocks = Blocks(Stutter())
    blocks.feed(Step("x", (1,), finish_reason="stop"))
    assert row(blocks) == [("call", "f", ""), ("call", "g", '{"a": 1}')]


def test_tokens_of_thoughts_are_counted_hidden_or_not() -> None:
    for thinking in (Thinking(), Thinking(shown=False)):
        blocks = Blocks(Plain(), thinking)
        for step in (
            Step("<think>", (1,)),
            Step("a", (1,)),
            Step("</think>b", (1, 1)),
            Step("c", (1,), finish_reason="stop"),
        ):
            blocks.feed(step)
        assert blocks.thought_tokens == 4
        assert ("thought", "", "a") in row(blocks) or not thinking.shown


def test_an_output_of_nothing_is_an_empty_text() -> None:
    blocks = Blocks(PARSERS["hermes"]())
    blocks.feed(Step(finish_reason="stop"))
    assert row(blocks) == [("text", "", "")]
