"""What becomes of a response, in whatever way it ends."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from compat.blocks import Blocks
from compat.openai.responses_encoder import ResponseEncoder, ResponseHead
from compat.openai.tools.parsers import Plain
from server.errors import ApiError, BadRequest, EngineFailed, Gone, NotFound, TooManyRequests
from server.http.responses_live import Draft, LiveResponses
from server.tenant import ANONYMOUS, Tenant
from tests.compat.deltas import STEPS, bytes_of

OTHER = Tenant("other", b"")


def draft(stem: str = "1", *, kept: bool = True) -> Draft:
    encoder = ResponseEncoder(ResponseHead(stem, 0, "m", 5, {}), Blocks(Plain()), bytes_of=bytes_of)
    return Draft(encoder, "resp_0", (b"[]",), kept)


def found(live: LiveResponses, id: str = "resp_1", owner: Tenant = ANONYMOUS) -> Any:
    response = live.find(owner, id)
    return json.loads(response.encoder.answer() if isinstance(response, Draft) else response.answer)


def test_one_in_the_making_is_found_and_kept_when_it_ends() -> None:
    live, making = LiveResponses(), draft()
    with live.making(ANONYMOUS, making):
        assert found(live)["status"] == "queued"
        for step in STEPS:
            making.encoder.collect(step)
        making.encoder.end(7)
    assert found(live)["status"] == "completed"
    with pytest.raises(NotFound):
        live.find(OTHER, "resp_1")


def test_one_that_is_not_to_be_stored_is_never_found() -> None:
    live, making = LiveResponses(), draft(kept=False)
    with live.making(ANONYMOUS, making), pytest.raises(NotFound):
        live.find(ANONYMOUS, "resp_1")
    with pytest.raises(NotFound):
        live.find(ANONYMOUS, "resp_1")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (EngineFailed("died"), "failed", "server_error"),
        (BadRequest("too long"), "failed", "invalid_prompt"),
        (TooManyRequests("busy"), "failed", "rate_limit_exceeded"),
        (Gone("cancelled", code="request_cancelled"), "cancelled", "server_error"),
        (RuntimeError("secret"), "failed", "server_error"),
    ],
)
def test_one_that_fails_says_how(error: Exception, status: str, code: str) -> None:
    live, making = LiveResponses(), draft()
    with pytest.raises(type(error)), live.making(ANONYMOUS, making):
        raise error
    response = found(live)
    assert (response["status"], response["error"]["code"]) == (status, code)
    assert "secret" not in response["error"]["message"]


@pytest.mark.parametrize("error", [ConnectionResetError(), asyncio.CancelledError()])
def test_one_whose_client_has_left_is_nobody_s(error: BaseException) -> None:
    live = LiveResponses()
    with pytest.raises(type(error)), live.making(ANONYMOUS, draft()):
        raise error
    with pytest.raises(NotFound):
        live.find(ANONYMOUS, "resp_1")


def test_one_that_was_forgotten_in_the_making_is_not_kept() -> None:
    live, making = LiveResponses(), draft()
    with live.making(ANONYMOUS, making):
        assert live.forget(ANONYMOUS, "resp_1") is making
        with pytest.raises(NotFound):
            live.find(ANONYMOUS, "resp_1")
    with pytest.raises(NotFound):
        live.forget(ANONYMOUS, "resp_1")


async def test_work_in_the_background_has_begun_when_start_returns_and_ends_with_close() -> None:
    live = LiveResponses()
    seen: list[str] = []

    async def work() -> None:
        seen.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("ended")

    await live.start(work())
    assert seen == ["begun"]
    await live.close()
    assert seen == ["begun", "ended"]


async def test_a_failure_in_the_background_is_nobody_else_s(caplog: pytest.LogCaptureFixture) -> None:
    live = LiveResponses()

    async def fail(error: Exception) -> None:
        raise error

    await live.start(fail(ApiError("told in the response")))
    await live.start(fail(RuntimeError("a bug")))
    await live.close()
    assert "a bug" in caplog.text
    assert "told in the response" not in caplog.text
