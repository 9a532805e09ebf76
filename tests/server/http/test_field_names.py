"""A chat's errors, told under another format's names."""

from __future__ import annotations

import pytest

from server.errors import ApiError, BadRequest, TooLarge, TooManyRequests, Unavailable
from server.http.field_names import named

NAMES = {"stop": "stop_sequences", "messages": "input"}


def told(error: ApiError) -> ApiError:
    with pytest.raises(type(error)) as caught, named(lambda param: NAMES.get(param, param)):
        raise error
    return caught.value


def test_the_field_has_the_other_name_and_so_has_the_message_that_begins_with_it() -> None:
    info = told(BadRequest("stop may have at most 16 strings.", param="stop", code="c")).info
    assert (info.param, info.message, info.code) == (
        "stop_sequences",
        "stop_sequences may have at most 16 strings.",
        "c",
    )


def test_words_of_a_sentence_stay_as_they_are() -> None:
    info = told(TooLarge("The template does not accept these messages.", param="messages")).info
    assert (info.param, info.message) == ("input", "The template does not accept these messages.")
    assert told(BadRequest("stopped", param="stop")).info.message == "stopped"


@pytest.mark.parametrize(
    "error", [Unavailable("Loading.", retry_after=1), TooManyRequests("Busy.", retry_after=2)]
)
def test_an_error_of_no_field_is_itself(error: ApiError) -> None:
    assert told(error) is error


def test_a_time_to_come_back_is_kept() -> None:
    assert told(TooManyRequests("Busy.", param="stop", retry_after=2)).retry_after == 2
