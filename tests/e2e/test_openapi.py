"""What the published document says is what the server answers, and a person finds the way."""

from __future__ import annotations

import urllib.request
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bench.serving import serve
from tests.e2e.api import Api

HI = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
ONCE = {"prompt": "Once", "max_tokens": 3}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
DEMANDED = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 200}
PROGRAM = {"calls": [{"prompt": "Say {{output:a}}"}]}
EXCHANGES: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "/", None),
    ("GET", "/v1/models", None),
    ("POST", "/v1/completions", ONCE),
    ("POST", "/v1/completions", ONCE | {"echo": True, "logprobs": 2, "prompt_logprobs": 1, "n": 2}),
    ("POST", "/v1/completions", ONCE | {"return_token_ids": True, "service_tier": "flex"}),
    ("POST", "/v1/chat/completions", HI),
    ("POST", "/v1/chat/completions", HI | {"logprobs": True, "top_logprobs": 2, "prompt_logprobs": 0}),
    ("POST", "/v1/chat/completions", HI | DEMANDED),
    ("POST", "/v1/chat/completions", HI | {"parrot": {"output": "a"}}),
    ("POST", "/v1/chat/completions", HI | {"n": 0}),
    ("POST", "/v1/chat/completions", HI | {"model": "nobody"}),
    ("POST", "/tokenize", {"prompt": "Hi", "return_token_strs": True}),
    ("POST", "/detokenize", {"tokens": [400, 401]}),
    ("POST", "/v1/responses", {"input": "Hi", "max_output_tokens": 16}),
    ("POST", "/v1/messages/count_tokens", HI),
    ("POST", "/v1/messages", HI),
    ("POST", "/v1/programs", PROGRAM),
    ("POST", "/v1/programs", {"calls": [{"prompt": "{{input:b}}{{output:a}}"}], "wait": 0}),
    ("POST", "/v1/sessions", {"metadata": {"a": "b"}}),
    ("GET", "/v1/sessions", None),
    ("GET", "/health", None),
    ("GET", "/health/ready", None),
    ("GET", "/version", None),
]
STREAMS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", ONCE | {"stream": True, "logprobs": 1}),
    ("/v1/chat/completions", HI | {"stream": True, "stream_options": {"include_usage": True}}),
    ("/v1/chat/completions", HI | DEMANDED | {"stream": True}),
    ("/v1/chat/completions", HI | {"stream": True, "parrot": {}}),
    ("/v1/programs", PROGRAM | {"stream": True}),
    ("/v1/messages", HI | {"stream": True}),
    ("/v1/responses", {"input": "Hi", "max_output_tokens": 16, "stream": True}),
]


@pytest.fixture(scope="module")
def published(sim_url: str) -> Any:
    return Api(sim_url)("GET", "/openapi.json").body


def validate(published: Any, path: str, method: str, status: int, media: str, value: object) -> None:
    answers = published["paths"][path][method.lower()]["responses"]
    schema = answers.get(str(status), answers["default"])["content"][media]["schema"]
    if media == "text/event-stream":
        schema = schema["properties"]["data"]["anyOf"][0]["contentSchema"]
    Draft202012Validator({**schema, "components": published["components"]}).validate(value)


def undocumented(published: Any, schema: Any, value: Any, at: str = "") -> set[str]:
    """The members of a value that its schema does not speak of."""
    if "$ref" in schema:
        schema = published["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        fitting = [
            each
            for each in schema["anyOf"]
            if Draft202012Validator({**each, "components": published["components"]}).is_valid(value)
        ]
        return set.intersection(*(undocumented(published, each, value, at) for each in fitting))
    if isinstance(value, list) and "items" in schema:
        return {name for each in value for name in undocumented(published, schema["items"], each, f"{at}[]")}
    if not isinstance(value, dict) or "properties" not in schema:
        return set()
    known = schema["properties"]
    inner = (
        undocumented(published, known[name], value[name], f"{at}.{name}") for name in known & value.keys()
    )
    return {f"{at}.{name}" for name in value.keys() - known.keys()}.union(*inner)


@pytest.mark.parametrize(
    ("method", "path", "body"), [each for each in EXCHANGES if "response" not in each[1]]
)
def test_no_member_of_an_answer_is_left_out_of_the_document(
    sim: Api, published: Any, method: str, path: str, body: dict[str, Any] | None
) -> None:
    answer = sim(method, path, body)
    answers = published["paths"][path][method.lower()]["responses"]
    schema = answers.get(str(answer.status), answers["default"])["content"]["application/json"]["schema"]
    assert undocumented(published, schema, answer.body) == set()


def template_of(published: Any, path: str) -> str:
    """The path of the document that a path is of."""
    parts = path.split("?")[0].split("/")
    for known in published["paths"]:
        names = known.split("/")
        if len(names) == len(parts) and all(
            a == b or a[:1] == "{" for a, b in zip(names, parts, strict=True)
        ):
            return str(known)
    raise AssertionError(path)


@pytest.mark.parametrize(("method", "path", "body"), EXCHANGES)
def test_answers_are_as_the_document_says(
    sim: Api, published: Any, method: str, path: str, body: dict[str, Any] | None
) -> None:
    answer = sim(method, path, body)
    validate(published, path, method, answer.status, "application/json", answer.body)
    if body is not None and answer.status < 400:
        takes = published["paths"][path][method.lower()]["requestBody"]["content"]["application/json"]
        Draft202012Validator({**takes["schema"], "components": published["components"]}).validate(body)


@pytest.mark.parametrize(("path", "body"), STREAMS)
def test_events_are_as_the_document_says(sim: Api, published: Any, path: str, body: dict[str, Any]) -> None:
    events = sim.events("POST", path, body)
    if path not in ("/v1/messages", "/v1/responses"):
        assert events.pop().data == "[DONE]"
    assert events
    for event in events:
        validate(published, path, "POST", 200, "text/event-stream", event.data)


def test_a_sessions_answers_are_as_the_document_says(sim: Api, published: Any) -> None:
    session = sim.session()
    call = sim("POST", f"{session}/calls", {"prompt": "Say {{output:a}}"})
    id = call.body["calls"][0]["id"]
    paper = {"prompt": "{{input:a}} {{output:b}}", "session_id": session.rpartition("/")[2]}
    exchanges: list[tuple[str, str, object]] = [
        ("GET", session, None),
        ("PUT", f"{session}/variables/x", {"value": "y"}),
        ("GET", f"{session}/variables", None),
        ("GET", f"{session}/variables/a?wait=30", None),
        ("GET", f"{session}/variables/nobody", None),
        ("POST", f"{session}/get", {"variables": ["a", "x"]}),
        ("GET", f"{session}/calls/{id}", None),
        ("POST", "/v1/submit", paper),
        ("GET", f"/v1/admin/story/{session.rpartition('/')[2]}", None),
        ("DELETE", session, None),
        ("GET", session, None),
    ]
    for method, path, body in exchanges:
        answer = sim(method, path, body)
        known = template_of(published, path)
        validate(published, known, method, answer.status, "application/json", answer.body)


def test_a_browser_gets_pages_that_load_nothing_from_elsewhere(sim_url: str) -> None:
    for path in ("/", "/docs"):
        request = urllib.request.Request(sim_url + path, headers={"Accept": "text/html,*/*"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
            page = answer.read().decode()
        assert "https://" not in page
        assert "openapi.json" in page
        assert "$version" not in page


def test_where_a_key_is_set_it_is_needed_for_all_but_health() -> None:
    with serve("--engine", "sim", "--api-key", "secret") as server:
        api = Api(server.url)
        for path in ("/", "/docs", "/openapi.json", "/v1/models", "/metrics", "/version"):
            assert api("GET", path).status == 401, path
        for path in ("/health", "/health/ready", "/ping"):
            assert api("GET", path).status == 200, path
