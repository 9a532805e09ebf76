"""More than the server can do: what is taken is answered, and the rest is told so at once."""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
import pytest

from bench.serving import Server, serve
from tests.e2e.api import Api, until

KEYS = ({"Authorization": "Bearer one"}, {"Authorization": "Bearer two"})


@pytest.fixture(scope="module")
def small() -> Iterator[Server]:
    """Runs four sequences at a time and lets four wait."""
    with serve(
        *("--engine", "sim", "--sim-step-ms", "4", "--max-num-seqs", "4"),
        *("--max-queued-requests", "4", "--max-queued-tokens", "1000"),
    ) as server:
        yield server


@pytest.fixture(scope="module")
def two_at_a_time() -> Iterator[Server]:
    with serve("--engine", "sim", "--sim-step-ms", "4", "--max-concurrency-per-key", "2") as server:
        yield server


@pytest.fixture(scope="module")
def strict() -> Iterator[Server]:
    with serve(
        *("--engine", "sim", "--api-key", "one", "two", "--open-metrics", "--max-concurrency-per-key", "1"),
        *("--request-timeout", "1"),
    ) as server:
        yield server


@dataclass(frozen=True, slots=True)
class Outcome:
    status: int
    seconds: float
    retry_after: str | None
    tokens: int


async def offer(url: str, clients: int, requests: int, max_tokens: int) -> list[Outcome]:
    """Each client sends its requests one after the other, without a pause."""
    body = {"prompt": "Once upon a time", "max_tokens": max_tokens, "ignore_eos": True}
    outcomes: list[Outcome] = []

    async def client(session: aiohttp.ClientSession) -> None:
        for _ in range(requests):
            begun = time.perf_counter()
            async with session.post(url + "/v1/completions", json=body) as answer:
                given = await answer.json()
                seconds = time.perf_counter() - begun
                tokens = given["usage"]["completion_tokens"] if answer.status == 200 else 0
                outcomes.append(Outcome(answer.status, seconds, answer.headers.get("Retry-After"), tokens))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return outcomes


async def test_under_overload_the_taken_are_answered_in_bounded_time_and_the_rest_refused_at_once(
    small: Server,
) -> None:
    calm = await offer(small.url, clients=8, requests=3, max_tokens=50)
    assert {outcome.status for outcome in calm} == {200}
    outcomes = await offer(small.url, clients=32, requests=5, max_tokens=50)
    taken = [outcome for outcome in outcomes if outcome.status == 200]
    refused = [outcome for outcome in outcomes if outcome.status == 429]
    assert len(taken) + len(refused) == len(outcomes)
    assert len(taken) >= 8
    assert all(outcome.tokens == 50 for outcome in taken)
    assert all(int(outcome.retry_after or 0) >= 1 for outcome in refused)
    typical = statistics.median(outcome.seconds for outcome in refused)
    # Idle machines take 10 ms; a busy one slows down both.
    assert typical < max(0.05, statistics.median(outcome.seconds for outcome in taken) / 4)
    bound = 3 * max(outcome.seconds for outcome in calm)
    assert max(outcome.seconds for outcome in taken) < bound
    assert small.metric("vllm:num_requests_running") <= 4


def test_a_refusal_names_the_flag_and_programs_are_refused_as_well(small: Server) -> None:
    api = Api(small.url)
    session = api.session()
    busy = {"prompt": "Once", "max_tokens": 30_000, "ignore_eos": True, "n": 8, "stream": True}
    with api.stream("POST", "/v1/completions", busy) as events:
        next(events)
        for path, body in (
            ("/v1/completions", {"prompt": "Hi"}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
            ("/v1/programs", {"calls": [{"prompt": "Hi {{output:a}}"}]}),
            (session + "/calls", {"prompt": "Hi {{output:a}}"}),
        ):
            answer = api("POST", path, body)
            assert answer.status == 429, path
            assert answer.body["error"]["code"] == "queue_full"
            assert "--max-queued-requests" in answer.body["error"]["message"]
        assert api("GET", session).status == 200, "looking is no work"
    assert until(lambda: api("POST", "/v1/completions", {"prompt": "Hi", "max_tokens": 1}).status == 200)


def test_no_transform_is_applied_for_what_is_refused(small: Server) -> None:
    api = Api(small.url)
    calls = [
        {
            "prompt": f"{{{{input:x}}}}{{{{output:o{number}}}}}",
            "placeholders": [
                {"name": "x", "transforms": f"lower | upper | lower | upper | truncate({number})"}
            ],
        }
        for number in range(1, 201)
    ]
    busy = {"prompt": "Once", "max_tokens": 30_000, "ignore_eos": True, "n": 8, "stream": True}
    with api.stream("POST", "/v1/completions", busy) as events:
        next(events)
        begun = small.cpu_seconds()
        answer = api("POST", "/v1/programs", {"calls": calls, "variables": {"x": "A" * 10**6}})
        assert answer.status == 429, answer.body
        assert small.cpu_seconds() - begun < 0.25, "applied, they take half a second"
    assert until(lambda: small.metric("parrot:generations") == 0)


@pytest.mark.parametrize("named", [{"session_id": "a"}, {"program_id": "a"}, {"request_id": "a"}])
def test_no_name_of_a_request_gets_around_the_bound_of_a_key(
    named: dict[str, str], two_at_a_time: Server
) -> None:
    api = Api(two_at_a_time.url)
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 30_000, "ignore_eos": True}
    long = chat | {"stream": True} | named
    place = "/v1/chat/completions"
    with api.stream("POST", place, long) as one, api.stream("POST", place, long) as two:
        next(one), next(two)
        for path, body in (
            (place, long),
            ("/v1/messages", chat | {"session_id": "a"}),
            ("/v1/responses", {"input": "Hi", "session_id": "a"}),
        ):
            answer = api("POST", path, body)
            assert (answer.status, "--max-concurrency-per-key" in str(answer.body)) == (429, True), path
    assert until(lambda: api("POST", "/v1/completions", {"prompt": "Hi", "max_tokens": 1}).status == 200)


def test_prompts_that_wait_are_bounded_by_their_tokens_too(small: Server) -> None:
    api = Api(small.url)
    long = {"prompt": [400] * 990, "max_tokens": 30_000, "ignore_eos": True, "stream": True}
    with api.stream("POST", "/v1/completions", {**long, "prompt": [401], "n": 4}) as running:
        next(running)
        waiting = threading.Thread(
            target=api, args=("POST", "/v1/completions", {**long, "stream": False, "max_tokens": 1})
        )
        waiting.start()
        assert until(lambda: small.metric("vllm:num_requests_waiting") == 1)
        answer = api("POST", "/v1/completions", {"prompt": [402] * 20, "max_tokens": 1})
        assert answer.status == 429
        assert "--max-queued-tokens" in answer.body["error"]["message"]
    waiting.join()


def test_a_key_has_its_own_bound_and_others_do_not_feel_it(strict: Server) -> None:
    connection = _send(strict, {"prompt": "Once", "max_tokens": 30_000, "ignore_eos": True})
    body = {"prompt": "Hi", "max_tokens": 1}
    api = Api(strict.url)
    assert until(lambda: strict.metric("vllm:num_requests_running") == 1)
    refused = api("POST", "/v1/completions", body, KEYS[0])
    assert refused.status == 429
    assert refused.body["error"]["code"] == "too_many_concurrent_requests"
    assert api("POST", "/v1/completions", body, KEYS[1]).status == 200
    connection.close()
    assert until(lambda: api("POST", "/v1/completions", body, KEYS[0]).status == 200)


def test_a_request_that_takes_too_long_ends_with_504_and_leaves_the_engine(strict: Server) -> None:
    api = Api(strict.url)
    body = {"prompt": "Once", "max_tokens": 30_000, "ignore_eos": True}
    begun = time.monotonic()
    answer = api("POST", "/v1/completions", body, KEYS[0])
    assert (answer.status, answer.body["error"]["code"]) == (504, "deadline_exceeded")
    assert 0.9 < time.monotonic() - begun < 6.0
    assert until(lambda: strict.metric("vllm:num_requests_running") == 0)
    output = {"name": "a", "in_out": True, "sampling": {"max_tokens": 30_000, "ignore_eos": True}}
    program = {"calls": [{"prompt": "Once {{output:a}}", "placeholders": [output]}]}
    answer = api("POST", "/v1/programs", program, KEYS[0])
    assert (answer.status, answer.body["errors"]["a"]["code"]) == (424, "deadline_exceeded")


def test_a_program_has_to_be_complete_in_the_time_of_one_request(strict: Server) -> None:
    sampling = {"max_tokens": 700, "ignore_eos": True}
    calls = [
        {"prompt": "Once {{output:a}}", "placeholders": [{"name": "a", "sampling": sampling}]},
        {"prompt": "Then {{input:a}} {{output:b}}", "placeholders": [{"name": "b", "sampling": sampling}]},
    ]
    answer = Api(strict.url)("POST", "/v1/programs", {"calls": calls}, KEYS[0])
    assert answer.status == 424, "each of the two would have had the time, one after the other they have not"
    assert answer.body["error"]["code"] in ("deadline_exceeded", "dependency_failed")
    assert "--request-timeout" in str(answer.body["errors"]["b"])


def test_a_client_that_does_not_read_or_send_is_disconnected_and_frees_the_engine() -> None:
    with serve("--engine", "sim", "--sim-step-ms", "0.2", "--client-timeout", "0.5") as server:
        many = {
            "prompt": "Once",
            "max_tokens": 30_000,
            "ignore_eos": True,
            "stream": True,
            "n": 8,
            "logprobs": 5,
        }
        connection = _send(server, many)
        assert until(lambda: server.metric("vllm:num_requests_running") == 8)
        assert until(lambda: "does not read" in server.text(), 30)
        assert until(lambda: server.metric("vllm:num_requests_running") == 0)
        connection.close()

        where = urlsplit(server.url)
        with socket.create_connection((where.hostname or "", where.port or 0), timeout=30) as sender:
            sender.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            assert sender.recv(4096).startswith(b"HTTP/1.1 408 "), "nor does one that does not send"


def _send(server: Server, body: dict[str, object]) -> socket.socket:
    """A request of key one whose answer nobody reads."""
    where = urlsplit(server.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((where.hostname, where.port))
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
    connection.sendall(head.encode() + b"Authorization: Bearer one\r\n\r\n" + data)
    return connection
