"""Byte-exact: a program's events, and errors after a stream has begun."""

from __future__ import annotations

import pytest

from parrot import wire
from server.http import messages, semantic, sse
from tests.golden.files import check_golden

DIED = wire.ErrorInfo(message='The engine "died".', type="server_error", param=None, code="engine_error")
LONG = wire.ErrorInfo(
    message="Too long.", type="invalid_request_error", param="messages", code="context_length_exceeded"
)
EVENTS: tuple[wire.ProgramEvent, ...] = (
    wire.ProgramCreated(id="prog_1", session_id="sess_1", variables={"a": "var_1", "b": "var_2"}),
    wire.CallStarted(id="call_1"),
    wire.VariableDelta(name="a", delta='Say "你"\n'),
    wire.VariableReady(name="a", value='Say "你"\n'),
    wire.CallFinished(id="call_1", state="done"),
    wire.VariableFailed(name="b", error=wire.VariableError(code="engine_error", message="It died.")),
    wire.VariablePending(
        name="c", pending=wire.Pending(id="var_3", state="pending", reason="nobody sets it")
    ),
    wire.ProgramDone(values={"a": 'Say "你"\n'}, usage=wire.Usage(prompt_tokens=3, completion_tokens=2)),
)


def test_a_program_s_events_are_byte_for_byte_as_recorded() -> None:
    check_golden("program.sse", b"".join(map(semantic._frame, EVENTS)) + sse.OPENAI.done)


@pytest.mark.parametrize(("name", "status", "info"), [("died", 500, DIED), ("long", 400, LONG)])
def test_an_error_within_a_stream_is_byte_for_byte_as_recorded(
    name: str, status: int, info: wire.ErrorInfo
) -> None:
    for format, ending in (("openai", sse.OPENAI), ("messages", messages._ending("req_1"))):
        check_golden(f"{format}-error-{name}.sse", ending.error(status, info) + ending.done)
