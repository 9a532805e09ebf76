"""What an answer says even when it is nothing."""

from __future__ import annotations

import msgspec
import pytest

from parrot import wire

NOTHING_USED = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "cached_tokens": 0}


@pytest.mark.parametrize(
    ("answer", "members"),
    [
        (wire.Usage(), NOTHING_USED),
        (
            wire.ErrorInfo(message="m"),
            {"message": "m", "type": "invalid_request_error", "param": None, "code": None},
        ),
        (
            wire.VariableError(message="m", code="c"),
            {"message": "m", "type": "invalid_request_error", "code": "c", "cause": []},
        ),
        (
            wire.CallHandle(id="i", inputs={}, outputs={}),
            {"id": "i", "inputs": {}, "outputs": {}, "warnings": []},
        ),
        (
            wire.VariableInfo(id="i", name="n", state="ready", value="", consumers=[]),
            {"id": "i", "name": "n", "state": "ready", "value": "", "consumers": []},
        ),
        (
            wire.ProgramDone(values={}),
            {"type": "program.done", "values": {}, "errors": {}, "pending": {}, "usage": NOTHING_USED},
        ),
        (wire.ListAnswer(data=[]), {"data": [], "object": "list"}),
    ],
)
def test_an_answer_has_its_members_also_when_they_are_empty(answer: wire.Struct, members: object) -> None:
    assert msgspec.to_builtins(answer) == members


def test_a_session_says_that_nothing_is_in_it() -> None:
    info = msgspec.to_builtins(wire.SessionInfo(id="i", created_at=0, expires_at=0))
    assert (info["metadata"], info["num_calls"], info["num_variables"]) == ({}, 0, 0)


def test_a_request_says_only_what_was_given() -> None:
    assert msgspec.to_builtins(wire.Call(prompt="{{output:a}}")) == {"prompt": "{{output:a}}"}
