from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

import parrot as P
from parrot.template import clean, placeholders


@given(st.text(alphabet=" ab\n", max_size=60))
def test_indentation_is_removed_as_cleandoc_does(text: str) -> None:
    assert clean(text) == inspect.cleandoc(text)


def test_tabs_inside_a_line_are_kept_to_the_letter() -> None:
    assert clean("a\tb\n\tc\td\n\t  e") == "a\tb\nc\td\n  e"


def test_placeholders_come_in_order_and_inputs_may_repeat() -> None:
    found = placeholders("{{input:b}} {{ input:a }} {{output: y }} {{input:b}} {{output:x}}")
    assert found.inputs == ("b", "a")
    assert found.outputs == ("y", "x")


def test_other_braces_are_literal_text() -> None:
    assert placeholders("{{x}} {input:a} {{ }} {{output:y}}").inputs == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{input:}}{{output:y}}", "identifier"),
        ("{{input:a-b}}{{output:y}}", "identifier"),
        ("{{input:" + "a" * 65 + "}}", "64"),
        ("{{output:y}}{{output:y}}", "twice"),
        ("{{input:y}}{{output:y}}", "an input and an output"),
    ],
)
def test_a_template_that_the_server_would_refuse_is_an_error(text: str, message: str) -> None:
    with pytest.raises(P.TemplateError, match=message):
        placeholders(text)
