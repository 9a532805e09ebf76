from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import TooLarge
from server.http.body import decode
from server.http.body_values import MAX_CONTAINERS, MAX_VALUES, SMALL, _outside_texts, check_values

FILLING = b'"' + b" " * SMALL + b'"'
"""A text that makes a body too long to be taken unseen."""


def row(item: bytes, count: int) -> bytes:
    return b"[%b,%b]" % (FILLING, b",".join([item] * count))


@pytest.mark.parametrize(
    ("item", "most"),
    [(b"{}", MAX_CONTAINERS - 1), (b"[]", MAX_CONTAINERS - 1), (b"1", MAX_VALUES), (b'"a"', MAX_VALUES)],
)
def test_so_many_values_are_taken_and_no_more(item: bytes, most: int) -> None:
    check_values(row(item, most))
    with pytest.raises(TooLarge) as caught:
        check_values(row(item, most + 1), "prompt")
    assert (caught.value.info.param, caught.value.info.code) == ("prompt", "too_many_values")


@pytest.mark.parametrize("text", ["{[,", '{"a": [1, "b"]},', "\\{", '\\"{,', '"', "\\"])
def test_what_stands_in_a_text_is_no_value(text: str) -> None:
    check_values(json.dumps([text * 2 * MAX_VALUES]).encode())


def test_a_body_that_ends_a_text_early_is_counted_from_there() -> None:
    with pytest.raises(TooLarge):
        check_values(b'["\\\\", "\\"", ' + row(b"[]", MAX_CONTAINERS) + b"]")


def test_keys_with_an_escape_hide_nothing() -> None:
    with pytest.raises(TooLarge):
        decode(b'{"messages":' + row(rb'{"r\u006fle":"\""}', MAX_CONTAINERS) + b"}", dict[str, object])


@given(
    st.recursive(
        st.none() | st.integers() | st.text(alphabet='ab"\\{}[],:\n\u00e9', max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\,{', max_size=4), inner),
        max_leaves=20,
    )
)
def test_outside_of_texts_are_the_marks_of_the_values_themselves(value: object) -> None:
    def containers(of: object) -> int:
        if isinstance(of, dict):
            return 1 + sum(map(containers, of.values()))
        return 1 + sum(map(containers, of)) if isinstance(of, list) else 0

    outside = _outside_texts(json.dumps(value).encode())
    assert outside.count(b"{") + outside.count(b"[") == containers(value)
