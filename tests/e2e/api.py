"""A plain HTTP client for tests: what curl would do, without any of our own code."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 60.0


@dataclass(slots=True)
class Answer:
    status: int
    body: Any
    content_type: str


@dataclass(slots=True)
class Event:
    """`kind` is the `event:` line, `data` the decoded `data:` line; of `[DONE]` the text itself."""

    kind: str
    data: Any


@dataclass(frozen=True, slots=True)
class Api:
    url: str

    def __call__(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> Answer:
        with self._exchange(method, path, body, headers) as response:
            content_type = response.getheader("Content-Type") or ""
            data = response.read()
            is_json = data and content_type.startswith("application/json")
            decoded = json.loads(data) if is_json else data.decode()
            return Answer(response.status, decoded, content_type)

    def session(self) -> str:
        """The path of a new one."""
        return f"/v1/sessions/{self('POST', '/v1/sessions').body['id']}"

    @contextmanager
    def stream(self, method: str, path: str, body: object = None) -> Iterator[Iterator[Event]]:
        """The events of a 200; leaving before the end closes the connection."""
        with self._exchange(method, path, body, None) as response:
            assert response.status == 200, response.read()
            assert response.getheader("Content-Type", "").startswith("text/event-stream")
            yield _events(response)

    def events(self, method: str, path: str, body: object = None) -> list[Event]:
        with self.stream(method, path, body) as events:
            return list(events)

    @contextmanager
    def _exchange(
        self, method: str, path: str, body: object, headers: dict[str, str] | None
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=TIMEOUT_S)
        try:
            data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
            connection.request(method, path, data, headers or {})
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether `condition` came true in time; for what can only be observed by asking again."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def _events(response: http.client.HTTPResponse) -> Iterator[Event]:
    kind, data = "", ""
    for line in response:
        text = line.decode().rstrip("\n")
        if text.startswith("event: "):
            kind = text.removeprefix("event: ")
        elif text.startswith("data: "):
            data = text.removeprefix("data: ")
        elif not text and data:
            yield Event(kind, data if data == "[DONE]" else json.loads(data))
            kind, data = "", ""
