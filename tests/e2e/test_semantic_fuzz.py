"""No field of a semantic request may hurt the server: every value gets 2xx or 4xx, and the next is served."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from parrot import wire
from tests.e2e.api import Api
from tests.e2e.test_openai_fuzz import VALUES

PROMPT = "Once {{input:v}} {{output:a}}"
MORE: tuple[object, ...] = (
    *VALUES,
    "a",
    "v",
    "latency",
    "ttft_ms:1e999",
    "strip | regex('(a+)+$')",
    "{{output:a}}" * 3000,
    {"a": {"ttft_ms": 0}},
    {"a": "latency", "v": None},
    ["a", "v", "a"],
    [{"prompt": "{{output:a}}{{input:a}}"}],
    [{"role": "user", "content": "{{output:a}}"}],
    [{"name": "a"}, {"name": "a"}],
)


def _program(**fields: object) -> dict[str, object]:
    return {"variables": {"v": "x"}, "calls": [_call()], "wait": 1, **fields}


def _call(**fields: object) -> dict[str, object]:
    return {"prompt": PROMPT, "placeholders": [_output()], **fields}


def _output(**fields: object) -> dict[str, object]:
    return {"name": "a", "sampling": {"max_tokens": 2}, **fields}


SHAPES: dict[str, tuple[type[msgspec.Struct], Callable[..., dict[str, object]]]] = {
    "program": (wire.ProgramRequest, _program),
    "call": (wire.Call, lambda **f: _program(calls=[_call(**f)])),
    "placeholder": (wire.Placeholder, lambda **f: _program(calls=[_call(placeholders=[_output(**f)])])),
    "sampling": (
        wire.Sampling,
        lambda **f: _program(calls=[_call(placeholders=[_output(sampling={"max_tokens": 2, **f})])]),
    ),
    "criteria": (wire.Limits, lambda **f: _program(get={"a": f})),
}


FIELDS = (
    *wire.SessionRequest.__struct_fields__,
    *wire.Call.__struct_fields__,
    *wire.GetRequest.__struct_fields__,
    *wire.PaperSubmit.__struct_fields__,
    *wire.PaperGet.__struct_fields__,
    "calls",
)


@pytest.mark.parametrize("shape", SHAPES)
def test_any_value_of_any_field_is_answered_and_then_a_canary(sim: Api, shape: str) -> None:
    type_, body = SHAPES[shape]
    for field in type_.__struct_fields__:
        for value in MORE:
            answer = sim("POST", "/v1/programs", body(**{field: value}))
            assert answer.status in (200, 202, *range(400, 500)), (field, value, answer.body)
            if answer.status not in (200, 202):
                assert answer.body["error"]["message"], (field, value)
        assert sim("POST", "/v1/programs", _program()).status == 200, field


@pytest.mark.parametrize(
    ("path", "base"),
    [
        ("/v1/sessions", {}),
        ("{session}/calls", {"prompt": "x{{output:q}}"}),
        ("{session}/get", {"variables": ["v"], "wait": 0}),
        ("/v1/submit", {"prompt": "x{{output:p}}", "session_id": "{session}"}),
        ("/v1/get", {"semantic_var_id": "v", "session_id": "{session}", "wait": 0}),
    ],
)
def test_any_value_in_a_session_is_answered_and_then_a_canary(
    sim: Api, path: str, base: dict[str, object]
) -> None:
    session = sim.session()
    assert sim("PUT", f"{session}/variables/v", {"value": "x"}).status == 201
    known = {
        name: session.rsplit("/", 1)[1] if value == "{session}" else value for name, value in base.items()
    }
    for field in FIELDS:
        for value in MORE:
            answer = sim("POST", path.replace("{session}", session), {**known, field: value})
            assert answer.status in (200, 201, 202, *range(400, 500)), (field, value, answer.body)
    assert sim("GET", f"{session}/variables/v").body["value"] == "x"
    assert sim("POST", "/v1/programs", _program()).status == 200


@pytest.mark.parametrize("path", ["/v1/programs", "/v1/sessions", "/v1/submit", "/v1/get"])
@pytest.mark.parametrize("body", [b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b"{" * 5000, b"[" * 200_000])
def test_bodies_that_are_no_requests_are_4xx(sim: Api, path: str, body: bytes) -> None:
    assert sim("POST", path, body).status in range(400, 500)


@pytest.mark.parametrize("ref", ["%00", "%ff", "a%20b", "..", "var_", "%2e%2e%2f", "x" * 3000])
def test_a_reference_that_names_nothing_is_4xx(sim: Api, ref: str) -> None:
    session = sim.session()
    for method, path, body in (
        ("GET", f"{session}/variables/{ref}", None),
        ("PUT", f"{session}/variables/{ref}", {"value": "x"}),
        ("GET", f"{session}/calls/{ref}", None),
        ("GET", f"/v1/sessions/{ref}", None),
        ("GET", f"/v1/programs/{ref}", None),
    ):
        assert sim(method, path, body).status in (201, *range(400, 500)), (method, path)
