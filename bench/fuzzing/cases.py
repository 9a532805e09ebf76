"""One request at random, as the bytes that a client would send; the same for the same seed and number.

Responsible for: choosing an endpoint, bending its body, query, path, method and headers, and framing it rightly or
wrongly. Ids that only a running server can give stand in it as marks (`values.MARKS`); `Case.wire` puts them in.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import inspect

from bench.fuzzing import values
from bench.fuzzing.endpoints import ENDPOINTS, Endpoint

LONGEST_WAIT_S = 0.2
"""A longer one would be honoured, and the campaign would wait."""

_METHODS = (
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "HEAD",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "get",
    "BREW",
    "G@T",
)
_TYPES = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "a/b; charset=x", "\xff")
_HEADERS: tuple[tuple[str, str], ...] = (
    *(("X-Request-Id", "a" * 200), ("X-Request-Id", "a\tb"), ("X-Request-Id", "mine")),
    *(("Idempotency-Key", "one"), ("Idempotency-Key", "x" * 300), ("Idempotency-Key", "")),
    *(("Content-Encoding", each) for each in ("gzip", "deflate", "br", "zstd", "x")),
    *(
        ("Authorization", "Bearer wrong"),
        ("Authorization", "Basic eA=="),
        ("Authorization", "Bearer \xff\xfe"),
    ),
    *(("Authorization", ""), ("Accept", "text/html"), ("Accept-Encoding", "x"), ("Range", "bytes=5-1")),
    *(("Expect", "100-continue"), ("Expect", "x"), ("Upgrade", "websocket"), ("Host", ""), ("Host", "a b")),
    *(("If-None-Match", "*"), ("Cookie", "a=\x01b"), ("X-Big", "x" * 20_000), ("X-Big", "x" * 40_000)),
    *(
        ("Origin", "http://elsewhere"),
        ("Transfer-Encoding", "identity"),
        ("TE", "trailers"),
        ("bad name", "x"),
    ),
)
_RAW = (
    *(
        b"",
        b"\r\n" * 1000,
        b"GET / HTTP/1.1",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/0.9\r\n\r\n",
    ),
    *(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00" * 5000),
    *(
        b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /?" + b"x" * 8200 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ),
    *(
        b"G" * 70_000,
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 2000 + b"\r\n",
        b"GET / HTTP/1.1\r\nNo colon\r\n\r\n",
    ),
    *(
        b"GET / HTTP/1.1\r\nA:\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\n folded: x\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
    ),
    *(b"GET http://[::1 HTTP/1.1\r\n\r\n", b"GET * HTTP/1.1\r\n\r\n", b"GET /%zz HTTP/1.1\r\n\r\n"),
    b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked, x\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: 9999999999\r\n\r\n{}",
    b"GET /health HTTP/1.1\r\n\r\n" * 50,
)


@dataclass(frozen=True, slots=True)
class Case:
    """`lawful`: it is HTTP, so it must be answered; else the server may also just close. `half_close`: the client
    says that nothing more will come."""

    number: int
    endpoint: Endpoint
    head: bytes
    body: bytes
    framing: str
    lawful: bool
    half_close: bool = False

    def wire(self, ids: Mapping[str, str]) -> bytes:
        """What to send; `ids` has the value of each mark."""
        head, body = _marked(self.head, ids), _marked(self.body, ids)
        match self.framing:
            case "raw":
                return head
            case "chunked":
                return head + b"Transfer-Encoding: chunked\r\n\r\n" + _chunks(body)
            case "cut":
                return head + b"Content-Length: %d\r\n\r\n" % (len(body) + 7) + body
            case "short":
                return head + b"Content-Length: %d\r\n\r\n" % max(0, len(body) - 3) + body
            case "whole" if body:
                return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
            case _:
                return head + b"\r\n"


def make(seed: int, number: int, key: str) -> Case:
    """`key`: the API key that most of the requests carry."""
    chance = random.Random(f"{seed}/{number}")
    endpoint = chance.choices(ENDPOINTS, [each.weight for each in ENDPOINTS])[0]
    if chance.random() < 0.04:
        return Case(
            number, endpoint, _raw(chance), b"", "raw", lawful=False, half_close=chance.random() < 0.8
        )
    framing = chance.choices(("whole", "chunked", "cut", "short"), (90, 4, 3, 3))[0]
    method = endpoint.method if chance.random() < 0.96 else chance.choice(_METHODS)
    target = _target(chance, endpoint)
    headers, ordinary = _headers(chance, key)
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)
    body = _body(chance, endpoint)
    lawful = ordinary and framing in ("whole", "chunked") and method not in ("CONNECT", "G@T")
    half_close = framing == "cut" and chance.random() < 0.8
    return Case(number, endpoint, head.encode("latin-1", "replace"), body, framing, lawful, half_close)


def _raw(chance: random.Random) -> bytes:
    data = bytearray(chance.choice(_RAW))
    for _ in range(chance.choice((0, 0, 1, 5))):
        if data:
            data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def _target(chance: random.Random, endpoint: Endpoint) -> str:
    path = endpoint.path
    if chance.random() < 0.06:
        path = "/".join(_bent(chance, part) for part in path.split("/"))
    queries = [f"{name}={_query(chance, name)}" for name in endpoint.query if chance.random() < 0.6]
    if chance.random() < 0.05:
        queries.append(f"{_escaped(values.key(chance))}={_escaped(values.text(chance))}")
    return (path or "/") + ("?" + "&".join(queries) if queries else "")


def _query(chance: random.Random, name: str) -> str:
    usual = {"wait": ("0", "0.05"), "stream": ("true", "false"), "format": ("json", "dot", "mermaid")}
    if chance.random() < 0.6:
        return chance.choice(usual.get(name, ("latency", "ttft_ms:200,tpot_ms:40")))
    if name == "wait":
        return chance.choice(("-1", "nan", "inf", "1e400", "301", "0x1", "", "%00", "1_0", "٣"))
    return _escaped(values.text(chance))


def _bent(chance: random.Random, part: str) -> str:
    if chance.random() < 0.6:
        return part
    bent = (
        "",
        ".",
        "..",
        "%2e%2e",
        "%00",
        "%ff",
        "%",
        part + "%20",
        part * 50,
        _escaped(values.text(chance)),
    )
    return chance.choice(bent)


def _escaped(text: str) -> str:
    return quote(text[:3000].encode("utf-8", "replace"), safe="@")


def _headers(chance: random.Random, key: str) -> tuple[list[tuple[str, str]], bool]:
    headers = [("Host", "fuzz"), ("Connection", "close"), ("Authorization", f"Bearer {key}")]
    headers.append(("Content-Type", "application/json" if chance.random() < 0.95 else chance.choice(_TYPES)))
    if chance.random() > 0.1:
        return headers, True
    name, value = chance.choice(_HEADERS)
    headers = [each for each in headers if each[0] != name] + [(name, value)]
    return headers, name not in (
        "Expect",
        "Upgrade",
        "Host",
        "Transfer-Encoding",
        "bad name",
        "X-Big",
        "Cookie",
    )


def _body(chance: random.Random, endpoint: Endpoint) -> bytes:
    if endpoint.type is None:
        return b"" if chance.random() < 0.95 else b"{}"
    body: Any = json.loads(json.dumps(endpoint.base))  # members of its own
    if chance.random() < 0.3:
        body.update(values.of_type(chance, _shape(endpoint.type)))
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
        _bend(chance, endpoint, body)
    if chance.random() < 0.01:
        body = values.garbage(chance)
    body = _impatient(body)
    if chance.random() < 0.003:
        body = {**endpoint.base, "user": "x" * chance.choice((2**20, 17 * 2**20))}
    data = json.dumps(body, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    return data if chance.random() < 0.97 else _spoiled(chance, data)


def _bend(chance: random.Random, endpoint: Endpoint, body: dict[str, Any]) -> None:
    """One member, of the body or deep in it, becomes something else or goes."""
    assert endpoint.type is not None
    if chance.random() < 0.5:
        field = chance.choice(_fields(endpoint.type))
        right = chance.random() < 0.5
        body[field.encode_name] = values.of_type(chance, field.type, 1) if right else values.garbage(chance)
    elif (found := _somewhere(chance, body)) is not None:
        where, place = found
        if chance.random() < 0.3:
            del where[place]
        else:
            where[place] = values.garbage(chance) if chance.random() < 0.5 else values.text(chance)


def _somewhere(chance: random.Random, where: Any) -> tuple[Any, Any] | None:
    """A container in `where` and one of its keys or indices; None where all is empty."""
    while places := list(where) if isinstance(where, dict) else list(range(len(where))):
        place = chance.choice(places)
        if not (isinstance(where[place], (dict, list)) and where[place] and chance.random() < 0.7):
            return where, place
        where = where[place]
    return None


def _impatient(body: Any) -> Any:
    if (
        isinstance(body, dict)
        and isinstance(wait := body.get("wait"), (int, float))
        and wait > LONGEST_WAIT_S
    ):
        return {**body, "wait": LONGEST_WAIT_S if wait <= 300 else wait}
    return body


def _spoiled(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data)) if data else 0
    return chance.choice(
        (
            data[:at],
            data + b"}",
            b"\xef\xbb\xbf" + data,
            data[:at] + b"\xff\xfe" + data[at:],
            data.decode("utf-8", "replace").encode("utf-16"),
            b"[" * chance.choice((1000, 200_000)),
            b'{"a":' * 5000,
            b"",
        )
    )


def _chunks(body: bytes) -> bytes:
    parts = [body[at : at + 1000] for at in range(0, len(body), 1000)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def _marked(data: bytes, ids: Mapping[str, str]) -> bytes:
    for mark, value in ids.items():
        data = data.replace(mark.encode(), value.encode())
    return data


@cache
def _shape(type_: type[msgspec.Struct]) -> inspect.Type:
    return inspect.type_info(type_)


def _fields(type_: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    shape = _shape(type_)
    assert isinstance(shape, inspect.StructType)
    return shape.fields
