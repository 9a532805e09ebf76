"""Engines that die, hang and cannot come up, under real requests: nobody is lost, and what is said is true."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from bench.serving import Server, serve
from engine.runner.injection import Fault
from tests.e2e.api import Answer, Api, Event, until

PROMPT = "Once upon a time there was a story that was told " * 8
SLOW_STEPS = ("--engine", "sim", "--sim-step-ms", "4")
CRASH_TOKEN = 3  # neither in a text nor among what the simulated engine generates


def body(max_tokens: int = 120, **more: Any) -> dict[str, object]:
    return {"prompt": PROMPT, "max_tokens": max_tokens, "ignore_eos": True, "temperature": 0, **more}


def streamed(max_tokens: int = 120, **more: Any) -> dict[str, object]:
    return body(max_tokens, stream=True, stream_options={"include_usage": True}, **more)


def text_of(events: list[Event]) -> str:
    return "".join(choice["text"] for event in chunks(events) for choice in event["choices"])


def chunks(events: list[Event]) -> list[Any]:
    assert events[-1].data == "[DONE]"
    told = [event.data for event in events[:-1]]
    assert not any("error" in data for data in told), told[-1]
    return told


def usage_of(events: list[Event]) -> Any:
    return chunks(events)[-1]["usage"]


def output(name: str) -> dict[str, object]:
    sampling = {"max_tokens": 40, "temperature": 0, "ignore_eos": True}
    return {"name": name, "in_out": True, "sampling": sampling}


def is_up(server: Server) -> bool:
    return server.status("/health/ready") == 200


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One slow engine, a watchdog that waits for a second only, and no answers from memory."""
    flags = ("--step-timeout", "1", "--sim-crash-token", str(CRASH_TOKEN), "--disable", "call-dedup")
    with serve(*SLOW_STEPS, *flags, "--inject-faults") as server:
        yield server


@pytest.fixture(scope="module")
def pair() -> Iterator[Server]:
    with serve(*SLOW_STEPS, "--engines", "2", "--step-timeout", "1") as server:
        yield server


def disturbed(server: Server, request: dict[str, object], number: int) -> list[Event]:
    """The events of a stream whose engine got a signal after a few of them."""
    (engine,) = server.engine_pids()
    with Api(server.url).stream("POST", "/v1/completions", request) as stream:
        events = [next(stream) for _ in range(10)]
        os.kill(engine, number)
        return [*events, *stream]


@pytest.mark.parametrize("more", [{}, {"temperature": 1.0, "seed": 7}], ids=["greedy", "seeded"])
def test_a_stream_goes_on_where_it_was_when_its_engine_is_killed(
    server: Server, more: dict[str, Any]
) -> None:
    assert until(lambda: is_up(server))
    request = streamed(**more)
    cold = {**request, "cache_salt": f"cold {more}"}
    undisturbed = Api(server.url).events("POST", "/v1/completions", {**request, "cache_salt": f"{more}"})
    events = disturbed(server, cold, signal.SIGKILL)
    assert text_of(events) == text_of(undisturbed)
    assert usage_of(events) == usage_of(undisturbed)
    assert chunks(events)[-2]["choices"][0]["finish_reason"] == "length"


def test_an_engine_that_hangs_is_replaced_and_its_streams_go_on(server: Server) -> None:
    assert until(lambda: is_up(server))
    undisturbed = Api(server.url).events("POST", "/v1/completions", streamed())
    assert text_of(disturbed(server, streamed(), signal.SIGSTOP)) == text_of(undisturbed)
    assert "--step-timeout" in server.text()


def test_an_engine_that_cannot_allocate_is_replaced_and_its_streams_go_on(server: Server) -> None:
    assert until(lambda: is_up(server))
    undisturbed = Api(server.url).events("POST", "/v1/completions", streamed())
    restarts = server.text().count("starting again")
    assert text_of(disturbed(server, streamed(), Fault.STARVE.signal)) == text_of(undisturbed)
    assert "the engine failed: MemoryError" in server.text()
    assert server.text().count("starting again") == restarts + 1


def test_cached_tokens_are_those_of_the_first_life(server: Server) -> None:
    assert until(lambda: is_up(server))
    Api(server.url)("POST", "/v1/completions", body(1))
    usage = usage_of(disturbed(server, streamed(), signal.SIGKILL))
    assert usage["prompt_tokens_details"]["cached_tokens"] > 0, "an empty cache came after it"


def test_logprobs_and_choices_are_complete_after_a_death(server: Server) -> None:
    assert until(lambda: is_up(server))
    request = streamed(60, n=3, logprobs=1, seed=5, temperature=1.0)
    events = disturbed(server, request, signal.SIGKILL)
    tokens = [0, 0, 0]
    for chunk in chunks(events):
        for choice in chunk["choices"]:
            tokens[choice["index"]] += len(choice["logprobs"]["tokens"])
    assert tokens == [60, 60, 60]
    assert usage_of(events)["completion_tokens"] == 180


def test_readiness_and_liveness_tell_the_truth_while_an_engine_restarts(server: Server) -> None:
    assert until(lambda: is_up(server))
    (engine,) = server.engine_pids()
    os.kill(engine, signal.SIGKILL)
    assert until(lambda: server.status("/health/ready") == 503)
    assert server.status("/health") == 200, "it is about to come back"
    assert Api(server.url)("GET", "/health/ready").body["status"] in ("restarting", "ready")
    assert Api(server.url)("POST", "/v1/completions", body(3)).status == 200, "it waits for the engine"
    assert is_up(server)


def test_a_program_ends_right_when_its_engine_is_killed_meanwhile(server: Server) -> None:
    assert until(lambda: is_up(server))
    program = {
        "calls": [
            {"prompt": "First {{output:a}}", "placeholders": [output("a")]},
            {"prompt": "Then {{input:a}} {{output:b}}", "placeholders": [output("b")]},
        ]
    }
    undisturbed = Api(server.url)("POST", "/v1/programs", program)
    assert undisturbed.status == 200, undisturbed.body
    (engine,) = server.engine_pids()
    with Api(server.url).stream("POST", "/v1/programs", {**program, "stream": True}) as stream:
        events = [next(stream) for _ in range(4)]
        os.kill(engine, signal.SIGKILL)
        events += list(stream)
    done = next(event for event in events if event.kind == "program.done")
    assert done.data["values"] == undisturbed.body["values"]


def test_a_request_that_kills_engines_fails_alone(server: Server) -> None:
    assert until(lambda: is_up(server))
    undisturbed = Api(server.url).events("POST", "/v1/completions", streamed(200))
    answers: list[Answer] = []
    poison = {"prompt": [5, CRASH_TOKEN], "max_tokens": 5}
    with Api(server.url).stream("POST", "/v1/completions", streamed(200)) as stream:
        events = [next(stream) for _ in range(3)]
        client = threading.Thread(
            target=lambda: answers.append(Api(server.url)("POST", "/v1/completions", poison))
        )
        client.start()
        events += list(stream)
        client.join()
    assert answers[0].status == 500
    assert "3 times" in answers[0].body["error"]["message"]
    assert text_of(events) == text_of(undisturbed)


def test_requests_that_came_with_poison_are_tried_alone_and_answered(server: Server) -> None:
    assert until(lambda: is_up(server))
    requests = [{"prompt": [5, CRASH_TOKEN], "max_tokens": 5}, *(body(8, seed=seed) for seed in range(5))]
    answers: list[Answer] = []
    clients = [
        threading.Thread(
            target=lambda request=request: answers.append(Api(server.url)("POST", "/v1/completions", request))
        )
        for request in requests
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert sorted(answer.status for answer in answers) == [200] * 5 + [500]


def test_with_two_engines_one_death_is_not_noticed(pair: Server) -> None:
    undisturbed = Api(pair.url)("POST", "/v1/completions", body())
    answers: list[Answer] = []
    clients = [
        threading.Thread(target=lambda: answers.append(Api(pair.url)("POST", "/v1/completions", body())))
        for _ in range(8)
    ]
    for client in clients:
        client.start()
    assert until(lambda: pair.metric("vllm:num_requests_running") >= 4)
    os.kill(pair.engine_pids()[0], signal.SIGKILL)
    assert until(lambda: len(pair.engine_pids()) == 1 or "restarting" in str(pair.get("/health/ready")))
    assert is_up(pair)
    for client in clients:
        client.join()
    assert [answer.status for answer in answers] == [200] * 8
    assert {answer.body["choices"][0]["text"] for answer in answers} == {
        undisturbed.body["choices"][0]["text"]
    }
    assert until(lambda: pair.get("/health/ready") == {"status": "ready", "engines": ["ready", "ready"]})


def test_an_engine_that_never_comes_up_again_is_a_503_for_those_who_wait() -> None:
    with serve(*SLOW_STEPS) as server:
        answers: list[Answer] = []
        client = threading.Thread(
            target=lambda: answers.append(Api(server.url)("POST", "/v1/completions", body(100_000 // 4)))
        )
        client.start()
        assert until(lambda: server.metric("vllm:num_requests_running") == 1)
        ended = threading.Event()

        def kill_whatever_starts() -> None:
            while not ended.is_set():
                for engine in server.engine_pids():
                    with suppress(ProcessLookupError):
                        os.kill(engine, signal.SIGKILL)

        killer = threading.Thread(target=kill_whatever_starts)
        killer.start()
        client.join()
        ended.set()
        killer.join()
        assert answers[0].status == 503
        assert answers[0].body["error"]["code"] == "no_engine"
        assert server.status("/health") == 503
        assert server.status("/health/ready") == 503
        assert Api(server.url)("POST", "/v1/completions", body(1)).status == 503
        assert server.stop() == 0


def test_a_restart_computes_the_same_with_a_real_model(bundled_server: Server) -> None:
    request = streamed(40)
    undisturbed = Api(bundled_server.url).events("POST", "/v1/completions", request)
    assert text_of(disturbed(bundled_server, request, signal.SIGKILL)) == text_of(undisturbed)
