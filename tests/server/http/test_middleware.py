from __future__ import annotations

import logging

import pytest
from aiohttp import web

from server.errors import BadRequest, TooManyRequests
from server.http.keys import REQUEST_ID, TENANT
from tests.server.http.serving import serving


async def who(request: web.Request) -> web.Response:
    return web.json_response({"tenant": request[TENANT].id, "id": request[REQUEST_ID]})


async def busy(request: web.Request) -> web.Response:
    raise TooManyRequests("Come back later.", retry_after=2.4)


async def bad(request: web.Request) -> web.Response:
    raise BadRequest("No good.", param="messages[0].content")


async def broken(request: web.Request) -> web.Response:
    raise RuntimeError("secret path /etc/x")


ROUTES = [
    web.get("/v1/who", who),
    web.get("/health", who),
    web.get("/metrics", who),
    web.get("/busy", busy),
    web.get("/bad", bad),
    web.get("/broken", broken),
]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_without_keys_everybody_is_one_tenant() -> None:
    async with serving(ROUTES) as client:
        answer = await (await client.get("/v1/who", headers=bearer("anything"))).json()
        assert answer["tenant"] == "anonymous"


async def test_each_key_is_a_tenant_of_its_own_that_does_not_give_the_key_away() -> None:
    async with serving(ROUTES, ("sk-one", "sk-two")) as client:
        one = await (await client.get("/v1/who", headers=bearer("sk-one"))).json()
        again = await (await client.get("/v1/who", headers={"Authorization": "bearer  sk-one"})).json()
        two = await (await client.get("/v1/who", headers=bearer("sk-two"))).json()
    assert one["tenant"] == again["tenant"] != two["tenant"]
    assert "sk-" not in one["tenant"]


@pytest.mark.parametrize(
    "header", [{}, bearer("sk-wrong"), bearer(""), {"Authorization": "Basic sk-one"}, bearer("sk-oné")]
)
@pytest.mark.parametrize("path", ["/v1/who", "/metrics", "/v1/nowhere"])
async def test_a_wrong_key_gets_401_everywhere(header: dict[str, str], path: str) -> None:
    async with serving(ROUTES, ("sk-one",)) as client:
        answer = await client.get(path, headers=header)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert (await answer.json())["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": "sk-one"}, 200),
        ({"x-api-key": "sk-one", "Authorization": "Bearer wrong"}, 200),
        ({"x-api-key": "wrong", "Authorization": "Bearer sk-one"}, 200),
        ({"x-api-key": "wrong"}, 401),
        ({"x-api-key": ""}, 401),
    ],
)
async def test_anthropic_s_header_names_the_key_too(headers: dict[str, str], status: int) -> None:
    async with serving(ROUTES, ("sk-one",)) as client:
        assert (await client.get("/v1/who", headers=headers)).status == status


@pytest.mark.parametrize(
    ("path", "status", "type", "text"),
    [
        ("/v1/messages", 401, "authentication_error", "Incorrect or missing"),
        ("/v1/messages/none", 404, "not_found_error", "Unknown request URL"),
        ("/v1/messages/bad", 400, "invalid_request_error", "messages[0].content: No good."),
        ("/v1/messages/broken", 500, "api_error", "Internal server error."),
    ],
)
async def test_errors_on_anthropic_s_paths_have_its_shape(
    path: str, status: int, type: str, text: str
) -> None:
    routes = [web.get("/v1/messages/bad", bad), web.get("/v1/messages/broken", broken)]
    key = {} if status == 401 else bearer("sk-one")
    async with serving(routes, ("sk-one",)) as client:
        answer = await client.get(path, headers={"X-Request-Id": "r1", **key})
        body = await answer.json()
    assert (answer.status, answer.headers["request-id"]) == (status, "r1")
    assert (body["type"], body["error"]["type"], body["request_id"]) == ("error", type, "r1")
    assert text in body["error"]["message"]


async def test_health_needs_no_key_and_metrics_only_when_asked() -> None:
    async with serving(ROUTES, ("sk-one",), open_metrics=True) as client:
        assert [(await client.get(path)).status for path in ("/health", "/metrics", "/v1/who")] == [
            200,
            200,
            401,
        ]


async def test_a_harmless_request_id_is_echoed_on_every_answer() -> None:
    async with serving(ROUTES) as client:
        for path in ("/v1/who", "/bad", "/nowhere", "/broken"):
            answer = await client.get(path, headers={"X-Request-Id": "run-7:a.b_c"})
            assert answer.headers["X-Request-Id"] == "run-7:a.b_c"


@pytest.mark.parametrize("given", [None, "x" * 129, "a b", "<script>"])
async def test_any_other_request_id_is_replaced(given: str | None) -> None:
    async with serving(ROUTES) as client:
        answer = await client.get("/v1/who", headers={} if given is None else {"X-Request-Id": given})
        assert answer.headers["X-Request-Id"] == (await answer.json())["id"] != given


async def test_our_errors_have_openai_s_shape() -> None:
    async with serving(ROUTES) as client:
        answer = await client.get("/bad")
        assert answer.status == 400
        assert await answer.json() == {
            "error": {
                "message": "No good.",
                "type": "invalid_request_error",
                "param": "messages[0].content",
                "code": "invalid_value",
            }
        }


async def test_a_busy_server_says_when_to_come_back() -> None:
    async with serving(ROUTES) as client:
        answer = await client.get("/busy")
        assert (answer.status, answer.headers["Retry-After"]) == (429, "2")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/v1/nowhere", 404, "unknown_url"), ("POST", "/v1/who", 405, "method_not_allowed")],
)
async def test_unknown_urls_and_methods_have_openai_s_shape(
    method: str, path: str, status: int, code: str
) -> None:
    async with serving(ROUTES) as client:
        answer = await client.request(method, path)
        assert answer.status == status
        assert (await answer.json())["error"]["code"] == code


async def test_a_bug_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(ROUTES) as client:
        with caplog.at_level(logging.ERROR):
            answer = await client.get("/broken")
        assert answer.status == 500
        assert (await answer.json())["error"]["message"] == "Internal server error."
    assert "secret path" in caplog.text
