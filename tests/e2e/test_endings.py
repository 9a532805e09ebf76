"""Ends of every kind leave nothing behind: of a request on its engine, and of the server on the machine."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bench.serving import Server, launch, serve
from tests.e2e.api import Answer, Api, until

ENDLESS = {"max_tokens": 30_000, "ignore_eos": True}
OUTPUT = {"name": "a", "in_out": True, "sampling": ENDLESS}
CALL = {"prompt": "Once {{output:a}}", "placeholders": [OUTPUT]}
STEP_MS = 100


@pytest.fixture(scope="module", name="slow")
def _slow() -> Iterator[Server]:
    with serve("--engine", "sim", "--sim-step-ms", str(STEP_MS)) as server:
        yield server


def exists(pid: int) -> bool:
    """Whether it is a process, other than one that only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def delete_session(api: Api) -> None:
    session = api.session()
    assert api("POST", session + "/calls", CALL).status == 201
    wait_until_it_runs(api)
    assert api("DELETE", session).status == 200


def delete_call(api: Api) -> None:
    session = api.session()
    call = api("POST", session + "/calls", CALL).body["calls"][0]["id"]
    wait_until_it_runs(api)
    assert api("DELETE", f"{session}/calls/{call}").status == 200


def delete_program(api: Api) -> None:
    program = api(
        "POST", "/v1/programs", {"calls": [CALL], "wait": 0}, {"Idempotency-Key": os.urandom(8).hex()}
    )
    assert program.status == 202
    wait_until_it_runs(api)
    assert api("DELETE", f"/v1/programs/{program.body['id']}").status == 200


def cancel_request(api: Api) -> None:
    answers: list[Answer] = []
    body = {"prompt": "Once", **ENDLESS, "request_id": "mine"}
    client = threading.Thread(target=lambda: answers.append(api("POST", "/v1/completions", body)))
    client.start()
    wait_until_it_runs(api)
    assert api("POST", "/v1/requests/mine/cancel").status == 200
    client.join()
    assert answers[0].status == 410


def wait_until_it_runs(api: Api) -> None:
    assert until(lambda: running(api) == 1)


def running(api: Api) -> float:
    lines = api("GET", "/metrics").body.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))


@pytest.mark.parametrize("end", [delete_session, delete_call, delete_program, cancel_request])
def test_whatever_ends_a_request_frees_its_engine_within_a_step(
    end: Callable[[Api], None], slow: Server
) -> None:
    api = Api(slow.url)
    assert until(lambda: running(api) == 0)
    end(api)
    ended = time.monotonic()
    assert until(lambda: running(api) == 0)
    assert time.monotonic() - ended < 2.5 * STEP_MS / 1e3, (
        "what was left of a step, and what it takes to look"
    )
    assert slow.metric("vllm:kv_cache_usage_perc") == 0


def test_a_stream_ends_when_the_last_call_that_ran_beside_it_is_cancelled(slow: Server) -> None:
    api = Api(slow.url)
    session = api.session()
    assert api("POST", session + "/calls", {"prompt": "{{input:never}} {{output:b}}"}).status == 201
    call = api("POST", session + "/calls", CALL).body["calls"][0]["id"]
    reader = http.client.HTTPConnection(urlsplit(slow.url).netloc, timeout=10)
    reader.request("GET", session + "/variables/b?stream=true")
    wait_until_it_runs(api)
    assert api("DELETE", f"{session}/calls/{call}").status == 200
    with reader.getresponse() as response:
        assert b"event: variable.pending" in response.read()
    reader.close()


def test_a_session_is_kept_while_somebody_waits_and_expires_by_itself_afterwards(sim: Api) -> None:
    session = f"/v1/sessions/{sim('POST', '/v1/sessions', {'ttl': 0.3}).body['id']}"
    sim("POST", session + "/calls", {"prompt": "{{input:never}} {{output:a}}"})
    assert sim("GET", session + "/variables/a?wait=1").status == 202
    names = {found["id"] for found in sim("GET", "/v1/sessions").body["data"]}
    assert session.rsplit("/", 1)[1] in names
    assert until(
        lambda: (
            sim("GET", "/v1/sessions").body["data"] == []
            or session.rsplit("/", 1)[1]
            not in {found["id"] for found in sim("GET", "/v1/sessions").body["data"]}
        )
    )
    gone = sim("GET", session)
    assert gone.status == 410
    assert "expired" in gone.body["error"]["message"]


def test_a_server_that_is_killed_takes_its_engines_with_it() -> None:
    with serve("--engine", "sim", "--engines", "2") as server:
        engines = server.engine_pids()
        assert len(engines) == 2
        server.process.kill()
        server.process.wait()
        assert until(lambda: not any(map(exists, engines)))


def test_a_server_that_ends_leaves_no_process_and_no_listener() -> None:
    with serve("--engine", "sim", "--engines", "2") as server:
        engines = server.engine_pids()
        assert server.stop() == 0
        assert not any(map(exists, engines))
        where = urlsplit(server.url)
        with socket.socket() as probe:
            assert probe.connect_ex((where.hostname or "", where.port or 0)) != 0


def test_no_process_of_the_server_has_shared_memory_that_could_be_left_behind(bundled_server: Server) -> None:
    for pid in (bundled_server.process.pid, *bundled_server.engine_pids()):
        assert "/dev/shm" not in Path(f"/proc/{pid}/maps").read_text()


def test_whatever_outlives_the_grace_is_told_so_before_the_server_ends() -> None:
    flags = ("--engine", "sim", "--sim-step-ms", "20", "--shutdown-grace", "0.2")
    with serve(*flags) as server:
        api, answers = Api(server.url), dict[str, Answer]()
        session = api.session()
        assert api("POST", session + "/calls", {"prompt": "{{input:never}} {{output:a}}"}).status == 201
        asked: dict[str, tuple[str, str, object]] = {
            "plain": ("POST", "/v1/completions", {"prompt": "Once", **ENDLESS}),
            "stream": ("POST", "/v1/completions", {"prompt": "Once", "stream": True, **ENDLESS}),
            "program": ("POST", "/v1/programs", {"calls": [CALL]}),
            "get": ("GET", session + "/variables/a?wait=100", None),
        }

        def ask(name: str) -> None:
            answers[name] = Api(server.url)(*asked[name])

        clients = [threading.Thread(target=ask, args=(name,)) for name in asked]
        for client in clients:
            client.start()
        assert until(lambda: running(api) == 3)
        assert server.stop() == 1
        for client in clients:
            client.join()
    statuses = {name: answer.status for name, answer in answers.items()}
    assert statuses == {"plain": 503, "stream": 200, "program": 410, "get": 410}
    assert answers["plain"].body["error"]["code"] == "draining"
    *_, error, done, _ = answers["stream"].body.split("\n\n")
    assert '"draining"' in error
    assert done == "data: [DONE]"


def test_an_engine_that_is_stopped_does_not_keep_the_server() -> None:
    with serve("--engine", "sim") as server:
        (engine,) = server.engine_pids()
        os.kill(engine, signal.SIGSTOP)
        assert server.stop() == 0
        assert not exists(engine)


def test_a_signal_while_the_engines_load_ends_the_server_too() -> None:
    with launch() as server:
        assert until(lambda: bool(server.url), 60)
        assert server.stop() == 0
