"""Prompts as segments."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import BadRequest
from server.graph.template import Constant, Input, Output, Segment, names, parse

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
CONSTANTS = st.text(alphabet="ab \n{}:é", min_size=1, max_size=8).filter(lambda text: "{{" not in text)


def written(segments: tuple[Segment, ...]) -> str:
    forms = {Input: "{{input:%s}}", Output: "{{output:%s}}"}
    return "".join(s.text if isinstance(s, Constant) else forms[type(s)] % s.name for s in segments)


def test_placeholders_and_the_text_between_them_are_segments_in_order() -> None:
    assert parse("Do {{input:x}} now.\n{{ output : y }}!") == (
        Constant("Do "),
        Input("x"),
        Constant(" now.\n"),
        Output("y"),
        Constant("!"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain",
        "{}",
        "{{}}",
        "{{ x }}",
        "{{input}}",
        "{{input:x",
        "{{input:x}",
        "{ {input:x} }",
        "}}{{",
        "{{1:x}}",
    ],
)
def test_any_other_braces_are_literal_text(text: str) -> None:
    assert parse(text) == ((Constant(text),) if text else ())


def test_braces_around_a_placeholder_stay() -> None:
    assert parse("{{{input:x}}}") == (Constant("{"), Input("x"), Constant("}"))
    assert parse("{{ {{input:x}} }}") == (Constant("{{ "), Input("x"), Constant(" }}"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{{input:}}", "the name is missing"),
        ("{{ output :  }}", "the name is missing"),
        ("{{input:1x}}", "identifier"),
        ("{{input:a b}}", "identifier"),
        ("{{input:a{b}}", "identifier"),
        ("{{output:" + "x" * 65 + "}}", "identifier"),
        ("{{input:é}}", "identifier"),
        ("{{foo:x}}", "unknown kind 'foo'"),
        ("{{Input:x}}", "unknown kind 'Input'"),
    ],
)
def test_a_wrong_placeholder_is_an_error_with_its_position(text: str, problem: str) -> None:
    with pytest.raises(BadRequest, match=problem) as error:
        parse(f"ab\ncd{text}", param="calls[3].prompt")
    assert error.value.info.param == "calls[3].prompt"
    assert "at character 5 (line 2, column 3)" in str(error.value)


def test_a_template_has_a_cap_on_its_segments() -> None:
    assert len(parse("{{input:x}}" * 4096)) == 4096
    with pytest.raises(BadRequest, match="at most 4096 segments"):
        parse("{{input:x}}" * 4097)


@given(
    st.lists(
        st.one_of(st.builds(Constant, CONSTANTS), st.builds(Input, NAMES), st.builds(Output, NAMES)),
        max_size=8,
    )
)
def test_what_is_written_as_a_template_parses_to_the_same_segments(segments: list[Segment]) -> None:
    separated: list[Segment] = []
    for segment in segments:  # neighbouring constants are one, and braces must not meet a placeholder's
        if isinstance(segment, Constant):
            segment = Constant(f"<{segment.text}>")
            if separated and isinstance(separated[-1], Constant):
                segment = Constant(separated.pop().text + segment.text)  # type: ignore[union-attr]
        separated.append(segment)
    assert parse(written(tuple(separated))) == tuple(separated)


@given(st.text(alphabet="{}:inputo x", max_size=60))
def test_any_text_is_either_refused_or_kept_to_the_letter(text: str) -> None:
    try:
        segments = parse(text)
    except BadRequest:
        return
    if all(isinstance(segment, Constant) for segment in segments):
        assert written(segments) == text
    assert not any(isinstance(a, Constant) and isinstance(b, Constant) for a, b in pairwise(segments))


@pytest.mark.parametrize("text", ["{", "{{", "}}", "{{input:", "{{ ", "{{a}"])
def test_parsing_takes_linear_time(text: str) -> None:
    start = time.process_time()
    parse(text * 200_000)
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("no outputs {{input:x}}", "at least one"),
        ("{{output:a}} {{output:b}} {{output:a}}", "'a' appears twice"),
        ("{{input:a}} {{output:a}}", "an input and an output"),
    ],
)
def test_the_names_of_a_call_have_to_make_sense(text: str, problem: str) -> None:
    with pytest.raises(BadRequest, match=problem):
        names(parse(text), "prompt")


def test_inputs_are_listed_once_and_outputs_in_order() -> None:
    segments = parse("{{input:b}}{{input:a}}{{output:z}}{{input:b}}{{output:y}}")
    inputs, outputs = names(segments, "prompt")
    assert ([*inputs], [*outputs]) == (["b", "a"], ["z", "y"])
