"""The process itself: start, readiness, keys, metrics, disconnects, signals. Real processes throughout."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from bench.serving import ROOT, Server, launch, serve


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether `condition` came true in time; for what can only be observed by asking again."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def post(
    url: str, body: dict[str, object], headers: dict[str, str] | None = None
) -> tuple[int, dict[str, object]]:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def open_stream(server: Server, body: dict[str, object]) -> socket.socket:
    """A raw connection that has received the first bytes of a streamed answer."""
    where = urlsplit(server.url)
    assert where.hostname is not None
    connection = socket.create_connection((where.hostname, where.port or 80), timeout=30)
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    received = b""
    while b"data: " not in received:
        received += connection.recv(4096)
    return connection


LONG = {"prompt": "Once", "max_tokens": 2000, "ignore_eos": True, "stream": True}


def test_readiness_comes_after_liveness_and_says_what_loads() -> None:
    with launch("--engine", "sim") as server:
        server.wait_ready()
        assert server.status("/health") == 200
        assert server.status("/ping") == 200
        assert server.status("/health/ready") == 200


def test_a_client_that_leaves_a_stream_frees_the_engine(sim_server: Server) -> None:
    assert until(lambda: sim_server.metric("vllm:num_requests_running") == 0)
    connection = open_stream(sim_server, LONG)
    assert until(lambda: sim_server.metric("vllm:num_requests_running") == 1)
    connection.close()
    assert until(lambda: sim_server.metric("vllm:num_requests_running") == 0, 2.0)
    assert until(lambda: sim_server.metric("vllm:kv_cache_usage_perc") == 0.0, 2.0)


def test_a_client_that_leaves_a_plain_request_frees_the_engine(sim_server: Server) -> None:
    assert until(lambda: sim_server.metric("vllm:num_requests_running") == 0)
    where = urlsplit(sim_server.url)
    assert where.hostname is not None
    connection = socket.create_connection((where.hostname, where.port or 80), timeout=30)
    data = json.dumps({**LONG, "stream": False}).encode()
    connection.sendall(
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
    )
    assert until(lambda: sim_server.metric("vllm:num_requests_running") == 1)
    connection.close()
    assert until(lambda: sim_server.metric("vllm:num_requests_running") == 0, 2.0)


def test_a_key_guards_everything_but_health() -> None:
    with serve("--engine", "sim", "--api-key", "secret", "other") as server:
        body: dict[str, object] = {"prompt": "Hi", "max_tokens": 1}
        assert post(f"{server.url}/v1/completions", body)[0] == 401
        assert post(f"{server.url}/v1/completions", body, {"Authorization": "Bearer wrong"})[0] == 401
        assert post(f"{server.url}/v1/completions", body, {"Authorization": "Bearer other"})[0] == 200
        assert server.status("/metrics") == 401
        assert server.status("/health") == 200


def test_sigterm_lets_running_work_finish_and_refuses_new_work() -> None:
    with serve("--engine", "sim", "--sim-step-ms", "20") as server:
        answers: list[tuple[int, dict[str, object]]] = []
        body: dict[str, object] = {"prompt": "Once", "max_tokens": 60, "ignore_eos": True}
        client = threading.Thread(target=lambda: answers.append(post(f"{server.url}/v1/completions", body)))
        client.start()
        assert until(lambda: server.metric("vllm:num_requests_running") == 1)
        server.process.send_signal(signal.SIGTERM)
        assert until(lambda: server.status("/health/ready") == 503)
        assert post(f"{server.url}/v1/completions", body)[0] == 503
        client.join()
        assert answers[0][0] == 200
        assert server.process.wait(20) == 0


def test_a_second_signal_stops_at_once_and_leaves_nothing_behind() -> None:
    with serve("--engine", "sim", "--sim-step-ms", "50") as server:
        connection = open_stream(server, LONG)
        server.process.send_signal(signal.SIGTERM)
        assert until(lambda: server.status("/health/ready") == 503)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 1
        connection.close()


def test_a_port_in_use_is_an_error_that_names_the_flag(sim_server: Server) -> None:
    port = urlsplit(sim_server.url).port
    answer = subprocess.run(
        [sys.executable, "run_server.py", "--engine", "sim", "--port", str(port)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 1
    assert "--port" in answer.stderr


@pytest.mark.parametrize("model", ["no/such/folder", "models"])
def test_a_model_that_cannot_be_loaded_ends_the_server_with_a_reason(model: str) -> None:
    answer = subprocess.run(
        [sys.executable, "run_server.py", "--port", "0", "--model", model],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"},
    )
    assert answer.returncode == 1
    assert "--model" in answer.stderr
