"""What one key can learn of another: nothing from ids, and nothing from the time that an answer takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import pytest

from bench.serving import Server, serve
from tests.e2e.api import Api

ONE, TWO = {"Authorization": "Bearer one"}, {"Authorization": "Bearer two"}
Ask = Callable[[Api, int, dict[str, str]], None]
LENGTH = 4000
ROUNDS = 9


@pytest.fixture(scope="module", name="shared")
def _shared() -> Iterator[Server]:
    """4,000 tokens take 40 ms to prefill, and a step 1 ms."""
    with serve("--engine", "sim", "--api-key", "one", "two", "--max-num-batched-tokens", "8192") as server:
        yield server


def completion(api: Api, number: int, key: dict[str, str]) -> None:
    prompt = [400 + (number * 7919 + at * (number + 1)) % 2000 for at in range(LENGTH)]
    body = {"prompt": prompt, "max_tokens": 1, "temperature": 0}
    assert api("POST", "/v1/completions", body, key).status == 200


def program(api: Api, number: int, key: dict[str, str]) -> None:
    sampling = {"max_tokens": 40, "temperature": 0, "ignore_eos": True}
    call = {
        "prompt": f"Once {number} {{{{output:a}}}}",
        "placeholders": [{"name": "a", "sampling": sampling}],
    }
    assert api("POST", "/v1/programs", {"calls": [call]}, key).status == 200


def seconds(ask: Ask, api: Api, number: int, key: dict[str, str]) -> float:
    begun = time.perf_counter()
    ask(api, number, key)
    return time.perf_counter() - begun


@pytest.mark.parametrize("ask", [completion, program])
def test_what_another_key_has_asked_takes_as_long_as_what_nobody_has(ask: Ask, shared: Server) -> None:
    api = Api(shared.url)
    asked, unasked, own = [], [], []
    for number in range(ROUNDS):
        ask(api, number, ONE)
        own.append(seconds(ask, api, number, ONE))
        asked.append(seconds(ask, api, number, TWO))
        unasked.append(seconds(ask, api, 1000 + number, TWO))
    assert statistics.median(own) < 0.7 * statistics.median(asked), "there is something to be seen"
    assert statistics.median(asked) == pytest.approx(statistics.median(unasked), rel=0.3)


def test_nothing_of_another_key_can_be_reached(shared: Server) -> None:
    api = Api(shared.url)
    call = {"prompt": "Hi {{output:a}}", "placeholders": [{"name": "a", "sampling": {"max_tokens": 1}}]}
    answer = api("POST", "/v1/programs", {"calls": [call]}, ONE).body
    session = f"/v1/sessions/{answer['session_id']}"
    handle = api("POST", session + "/calls", {"prompt": "Then {{output:b}}"}, ONE).body["calls"][0]
    for method, path, body in (
        ("GET", session, None),
        ("DELETE", session, None),
        ("POST", session + "/calls", call),
        ("GET", f"{session}/calls/{handle['id']}", None),
        ("DELETE", f"{session}/calls/{handle['id']}", None),
        ("GET", f"{session}/variables", None),
        ("GET", f"{session}/variables/a", None),
        ("GET", f"{session}/variables/{handle['outputs']['b']}", None),
        ("PUT", f"{session}/variables/c", {"value": "x"}),
        ("POST", f"{session}/get", {"variables": ["a"]}),
        ("GET", f"{session}/graph", None),
        ("GET", f"{session}/trace", None),
        ("GET", f"/v1/programs/{answer['id']}", None),
        ("DELETE", f"/v1/programs/{answer['id']}", None),
        ("POST", "/v1/programs", {"calls": [call], "session_id": answer["session_id"]}),
        ("POST", "/v1/submit", {"prompt": "Hi {{output:d}}", "session_id": answer["session_id"]}),
        ("POST", "/v1/get", {"semantic_var_id": "a", "session_id": answer["session_id"]}),
        ("GET", f"/v1/admin/story/{answer['session_id']}", None),
    ):
        assert api(method, path, body, TWO).status == 404, (method, path)
        assert api(method, path, body).status == 401, (method, path)
    assert api("GET", f"{session}/variables/a", None, ONE).status == 200
    assert answer["session_id"] not in str(api("GET", "/v1/sessions", None, TWO).body)
