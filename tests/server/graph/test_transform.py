"""Transforms: what they do, what is refused, and that no text and no pipeline can hang them."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import BadRequest
from server.graph.transform import MAX_TEXT, TransformError, parse


@pytest.mark.parametrize(
    ("source", "text", "result"),
    [
        ("strip", "  a b\n", "a b"),
        ("lower", "ÀB", "àb"),
        ("upper", "straße", "STRASSE"),
        ("first_line", "\n  \n one \ntwo", "one"),
        ("first_line", "", ""),
        ("code_block", "See:\n```python\nx = 1\n\n```\nand ```y```", "x = 1\n"),
        ("json_field('a.b[0]')", '{"a": {"b": ["x"]}}', "x"),
        ("json_field('a')", '{"a": {"b": [1, 2.5, null]}}', '{"b":[1,2.5,null]}'),
        ("json_field('[].n')", '[{"n": 1}, {"n": 2}]', "[1,2]"),
        ("json_field('a[?b==`1`].c | [0]')", '{"a": [{"b": 1, "c": "z"}]}', "z"),
        ("regex('[0-9]+')", "got 12 of 20", "12"),
        (r"regex('(\d+) of (\d+)', 2)", "got 12 of 20", "20"),
        ("regex('(?P<n>é+)', 'n')", "caféé", "éé"),
        ("replace('an', '')", "banana", "ba"),
        ("truncate(3)", "añb́cd", "añb"),
        ("prefix('> ') | suffix(\"\\n\")", "x", "> x\n"),
        (r"replace('\'', '\\')", "it's", "it\\s"),
        ("  strip|lower |  truncate( 2 )  ", " ABC ", "ab"),
    ],
)
def test_a_pipeline_is_applied_from_left_to_right(source: str, text: str, result: str) -> None:
    assert parse(source).apply(text) == result


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("", "a transform"),
        ("strip |", "a transform"),
        ("strip | | lower", "a transform"),
        ("strip lower", r"'\|' or the end"),
        ("eval('1')", "There is no transform 'eval'"),
        ("strip(1)", "no arguments"),
        ("strip(", "a text in quotes or a number"),
        ("truncate('3')", "takes a number"),
        ("truncate(-1)", "a text in quotes or a number"),
        ("truncate(99999999999999999999)", "a text in quotes or a number"),
        ("prefix('a", "a text in quotes or a number"),
        ("replace('a')", "a text in quotes and a text in quotes"),
        ("replace('', 'a')", "must not be empty"),
        ("json_field('a.')", "not a JMESPath"),
        ("json_field('[a, b]')", "multi select list is not supported"),
        ("json_field('sort_by(@, &a)')", "function expression is not supported"),
        ("json_field('{a: b}')", "multi select dict is not supported"),
        ("json_field('`[1]`')", "literal is not supported"),
        ("json_field('" + "(" * 250 + "')", "not a JMESPath"),
        ("regex('(')", "missing"),
        ("regex('a', 1)", "no group 1"),
        ("regex('a', 'n')", "no group 'n'"),
        ("regex(1)", "a pattern in quotes"),
        ("regex('(?=a)')", "invalid"),
        ("regex('((a{100}){100}){100}')", "regex: "),
        ("regex('(0,|0,0,|,0){1000}(x|y)')", "pattern too large"),
        (" | ".join(["regex('(0,|,){800}')"] * 3), "too large together"),
        ("regex('" + "a" * 2000 + "')", "at most 1024"),
        (" | ".join(["strip"] * 33), "at most 32 steps"),
        ("prefix('" + "a" * 5000 + "')", "at most 4096"),
    ],
)
def test_a_bad_pipeline_is_refused_and_the_field_named(source: str, problem: str) -> None:
    with pytest.raises(BadRequest, match=problem) as error:
        parse(source, param="calls[0].placeholders[1].transforms")
    assert error.value.info.param == "calls[0].placeholders[1].transforms"


@pytest.mark.parametrize(
    ("source", "text", "problem"),
    [
        ("json_field('a')", "not json", "not JSON"),
        ("json_field('a')", "[" * 10_000, "cannot be applied"),
        ("json_field('a')", '{"b": 1}', "no such field"),
        ("json_field('a')", '{"a": null}', "no such field"),
        ("json_field('a[0].b')", '{"a": "text"}', "no such field"),
        ("code_block", "```x``` none", "no fenced code block"),
        ("regex('x')", "abc", "not found"),
        ("regex('(x)|b', 1)", "abc", "group 1 is not in the match"),
        ("strip | regex('x')", "abc", "regex: "),
        ("replace('a', 'bbbbbbbbbb')", "a" * (MAX_TEXT // 5), "more than"),
    ],
)
def test_a_text_that_does_not_fit_is_an_error_of_that_variable(source: str, text: str, problem: str) -> None:
    with pytest.raises(TransformError, match=problem):
        parse(source).apply(text)


LIST = "[" + "0," * 1_900_000 + "0]"
EMPTY_LISTS = "[" + "[]," * 28_000 + "0]"


@pytest.mark.parametrize("size", [1, 30, 1000])
@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("regex('(0|,){500}x')", LIST),
        ("regex('(0|,)*0(0|,){20}x')", LIST),
        ("regex('" + "(" * 40 + "." + ")" * 40 + "*x?')", LIST),
        ("json_field('[?@==`1`]|[0]')", LIST),
        ("json_field('" + "||".join(["[?@==`1`][0]"] * 15) + "')", LIST),
        (" | ".join(["json_field('[*][]|@')"] * 32), LIST),
        ("json_field('[0]')", EMPTY_LISTS),
        ("json_field('[0]')", "[" + "1e300," * 30_000 + "0]"),
        ("json_field('@')", "[" + f"{'9' * 4000}," * 60 + "0]"),
        (" | ".join(["upper"] * 32), "\u00df" * MAX_TEXT),
        (" | ".join(["code_block"] * 32), "```\n" * 1_000_000),
        ("first_line", "\n" * MAX_TEXT),
        ("code_block", "```\n" + "\n" * (MAX_TEXT - 4)),
        ("replace('00', 'é')", "0" * MAX_TEXT),
        (" | ".join(["strip"] * 32), "\u2003" * MAX_TEXT),
    ],
)
def test_no_application_holds_up_the_loop(source: str, text: str, size: int) -> None:
    """Also not with a text that is just short enough to be accepted."""
    pipeline, text = parse(source), f"{text[: len(text) // size]}0]"
    start = time.process_time()
    with suppress(TransformError):
        pipeline.apply(text)
    assert time.process_time() - start < 0.1, "20 ms on an idle core"


def test_a_text_that_is_too_long_for_a_step_is_told_so() -> None:
    for source in ("regex('(0|,){500}x')", "json_field('[?@==`1`]|[0]')", "json_field('a')"):
        with pytest.raises(TransformError, match="a text of 3800003 characters is too long for it"):
            parse(source).apply(LIST)


def test_an_ordinary_answer_is_short_enough_for_every_step() -> None:
    page = "An ordinary page of a document, with 12 points. " * 700  # 33 thousand characters
    assert parse(r"regex('(\d+) points', 1)").apply(page) == "12"
    assert parse(f"strip | code_block | {'upper | ' * 5} first_line").apply(f"```\n{page}\n```\n")
    items = "[" + ",".join(f'{{"name": "item {n}", "about": "{"x" * 200}"}}' for n in range(800)) + "]"
    assert parse("json_field('[799].name')").apply(items) == "item 799"
    assert parse("json_field('[*].name | [0]')").apply(items) == "item 0"


STEPS = st.sampled_from(
    [
        "strip",
        "upper",
        "first_line",
        "code_block",
        "truncate(5)",
        "prefix('ab')",
        "suffix('```')",
        "replace('a', 'aaaa')",
        "replace('{', '{{')",
        "regex('(a*)*(b|a*)*c?')",
        "json_field('*.*[].*[?a]')",
        "json_field('[][][]')",
    ]
)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(STEPS, min_size=1, max_size=10),
    st.text(alphabet='a`{}[]":,\n é', max_size=40),
    st.integers(0, 2000),
)
def test_no_pipeline_hangs_on_any_text(steps: list[str], text: str, times: int) -> None:
    start = time.process_time()
    try:
        result = parse(" | ".join(steps)).apply(text * times)
        assert len(result) <= MAX_TEXT
    except TransformError:
        pass
    assert time.process_time() - start < 0.5


@settings(deadline=None)
@given(st.text(alphabet="strip|lower()'\"\\,12 .[]", max_size=40))
def test_any_source_is_a_pipeline_or_a_bad_request(source: str) -> None:
    with suppress(BadRequest):
        parse(source)
