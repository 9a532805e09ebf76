"""What locust runs: a user reads one streamed completion after the other.

Beside locust's own line for the request it reports `ttft` and `inter_token`, and its tokens as their length.
Imports nothing of ours, because it runs in locust's own environment.
"""

# mypy: ignore-errors

from __future__ import annotations

import json
import os
import random
import time

from locust import HttpUser, constant, events, task

PROMPT_TOKENS = int(os.environ["PROMPT_TOKENS"])
OUTPUT_TOKENS = int(os.environ["OUTPUT_TOKENS"])


class Reader(HttpUser):
    wait_time = constant(0)

    @task
    def complete(self) -> None:
        begun, first, last, tokens = time.perf_counter(), 0.0, 0.0, 0
        with self.client.post(
            "/v1/completions", json=self._body(), stream=True, name="completion", catch_response=True
        ) as answer:
            for line in answer.iter_lines():
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line.removeprefix(b"data: "))
                if event["choices"]:
                    last = time.perf_counter()
                    first = first or last
                else:
                    tokens = event["usage"]["completion_tokens"]
        if tokens > 1:
            self._report("ttft", first - begun, 0)
            self._report("inter_token", (last - first) / (tokens - 1), 0)
            self._report("tokens", last - begun, tokens)

    def _body(self) -> dict[str, object]:
        prompt = [random.randrange(400, 2400) for _ in range(PROMPT_TOKENS)]
        usage = {"stream": True, "stream_options": {"include_usage": True}}
        return {
            "prompt": prompt,
            "max_tokens": OUTPUT_TOKENS,
            "ignore_eos": True,
            "skip_special_tokens": False,
            **usage,
        }

    def _report(self, name: str, seconds: float, length: int) -> None:
        report(self.environment, name, seconds, length)


@events.test_start.add_listener
def started(environment: object, **_: object) -> None:
    """A row whose time is the beginning: those of requests begin when the first of them has ended."""
    report(environment, "start", 0.0, 0)


def report(environment: object, name: str, seconds: float, length: int) -> None:
    environment.events.request.fire(
        request_type="SSE",
        name=name,
        response_time=seconds * 1e3,
        response_length=length,
        exception=None,
        context={},
    )
