from __future__ import annotations

import logging

import msgspec
import pytest
from aiohttp import web

from parrot import wire
from server.errors import BadRequest
from server.http.body import decode, read, read_optional
from tests.server.http.serving import serving


class Part(msgspec.Struct):
    type: str


class Item(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None


class Limit(msgspec.Struct):
    most: int


class Body(msgspec.Struct):
    items: list[Item]
    count: int | None = None
    bias: dict[str, float] | None = None
    limits: dict[str, str | Limit] | None = None


@pytest.mark.parametrize(
    ("data", "param"),
    [
        ("[]", None),
        ('{"items": 1}', "items"),
        ("{}", "items"),
        ('{"items": [{}]}', "items[0].role"),
        ('{"items": [{"role": "x"}, {"role": 1}]}', "items[1].role"),
        ('{"items": [{"role": "x", "content": 5}]}', "items[0].content"),
        ('{"items": [{"role": "x", "content": [{"typo": 5}]}]}', "items[0].content[0].type"),
        ('{"items": [], "count": "5"}', "count"),
        ('{"items": [], "count": 1.5}', "count"),
        ('{"items": [], "count": true}', "count"),
        ('{"items": [], "bias": {"1": "x"}}', "bias.1"),
        ('{"items": [], "bias": {"a": 1, "b.c": null, "d": null}}', "bias.b.c"),
        ('{"items": [], "limits": {"a": "x", "b": {"most": 1}, "c": {"most": "x"}}}', "limits.c.most"),
        ('{"items": [], "limits": {"a": "x", "b": {}}}', "limits.b.most"),
        ('{"items": [], "limits": {"a": 1}, "x": [', "limits"),
        ('{"items": [], "bias": {"1": 1e999}}', "bias"),
    ],
)
def test_a_wrong_type_is_named_by_its_path(data: str, param: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        decode(data.encode(), Body)
    assert caught.value.info.param == param
    assert "$" not in caught.value.info.message


@pytest.mark.parametrize(
    ("data", "param"),
    [
        ('{"calls": [], "colour": 1}', "colour"),
        ('{"calls": [{"prompt": "x", "seed": 1}]}', "calls[0].seed"),
        ('{"calls": [], "get": {"a": "latency", "b": {"tpot_ms": 1}, "c": {"tpot": 1}}}', "get.c.tpot"),
    ],
)
def test_our_own_api_names_a_field_that_it_does_not_know(data: str, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode(data.encode(), wire.ProgramRequest)
    assert (caught.value.info.param, caught.value.info.code) == (param, "unknown_field")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"items": []} x',
        b'{"items": [], "count": NaN}',
        b"\xff",
        b'{"items": [{"role": "\xff"}]}',
        b'{"items": [{"role": "\\ud800"}]}',
        b'{"x": ' + b"[" * 100_000,
    ],
)
def test_what_is_no_json_is_a_bad_request(data: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        decode(data, Body)
    assert caught.value.info.code == "invalid_json"


def test_null_is_absent_and_the_unknown_is_ignored_with_a_debug_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, "server.http.body"):
        body = decode(b'{"items": [], "count": null, "mine": 1, "other": {}}', Body)
    assert body == Body([])
    assert "mine, other" in caplog.text


async def echo(request: web.Request) -> web.Response:
    return web.json_response(len((await read(request, Body)).items))


async def optional(request: web.Request) -> web.Response:
    return web.json_response(len((await read_optional(request, Body, Body([Item("x")]))).items))


async def test_the_content_type_does_not_matter() -> None:
    async with serving([web.post("/", echo)]) as client:
        for type_ in ("application/x-www-form-urlencoded", "text/plain", "application/json; charset=latin-1"):
            assert (
                await client.post("/", data=b'{"items": []}', headers={"Content-Type": type_})
            ).status == 200


async def test_a_body_that_is_too_large_is_413() -> None:
    async with serving([web.post("/", echo)], max_body=1000) as client:
        answer = await client.post("/", data=b'{"items": [' + b" " * 2000 + b"]}")
        assert answer.status == 413
        error = (await answer.json())["error"]
        assert (error["code"], "1000" in error["message"]) == ("request_too_large", True)


async def test_an_absent_body_may_have_a_meaning() -> None:
    async with serving([web.post("/", optional)]) as client:
        assert await (await client.post("/")).json() == 1
        assert await (await client.post("/", data=b'{"items": []}')).json() == 0
