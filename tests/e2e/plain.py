"""HTTP without any client's help: what curl would send, and the bytes that come back."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[str]:
        """The data of every event; asserts that the body is nothing but events."""
        *blocks, rest = self.body.decode().split("\n\n")
        assert rest == ""
        assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
        return [block.removeprefix("data: ") for block in blocks]

    def chunks(self) -> list[Any]:
        """The events of a stream that ended as it should."""
        *data, done = self.events()
        assert done == "[DONE]"
        return [json.loads(event) for event in data]


def post(url: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
    """`body` is JSON unless it is bytes already."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return _send(urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})}))


def get(url: str) -> Answer:
    return _send(urllib.request.Request(url))


def _send(request: urllib.request.Request) -> Answer:
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return Answer(answer.status, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read())
