"""What operators see: metrics under the names that tools read, logs with ids, the story of a request."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from bench.serving import Server, serve
from tests.e2e.api import Api, until

KEY = {"Authorization": "Bearer one"}
OTHER = {"Authorization": "Bearer two"}
READ_BY_TOOLS = (
    *("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "num_preemptions_total"),
    *(
        "prefix_cache_queries_total",
        "prefix_cache_hits_total",
        "prompt_tokens_total",
        "generation_tokens_total",
    ),
    *("request_success_total", "time_to_first_token_seconds_bucket", "inter_token_latency_seconds_bucket"),
    *("e2e_request_latency_seconds_bucket", "request_queue_time_seconds_bucket"),
    *("request_prefill_time_seconds_bucket", "request_decode_time_seconds_bucket"),
)


@pytest.fixture(scope="module")
def logging_server() -> Iterator[Server]:
    flags = ("--log-format", "json", "--access-log", "--log-level", "debug", "--open-metrics")
    with serve("--engine", "sim", "--api-key", "one", "two", *flags) as server:
        yield server


def lines(server: Server) -> list[dict[str, str]]:
    return [json.loads(line) for line in list(server.log) if line.startswith("{")]


def test_metrics_have_every_name_that_tools_read(sim: Api) -> None:
    assert sim("POST", "/v1/completions", {"prompt": "Hi", "max_tokens": 3}).status == 200
    text = sim("GET", "/metrics").body
    for name in READ_BY_TOOLS:
        assert re.search(rf"^vllm:{name}\{{", text, re.MULTILINE), name


def test_the_time_to_the_first_token_is_queueing_and_prefill(sim_server: Server) -> None:
    names = ("request_queue_time", "request_prefill_time", "time_to_first_token", "request_decode_time")
    before = [sim_server.metric(f"vllm:{name}_seconds_sum") for name in names]
    counts = [sim_server.metric(f"vllm:{name}_seconds_count") for name in names]
    body = {"prompt": "Once " * 300, "max_tokens": 20, "ignore_eos": True, "n": 4, "cache_salt": "timing"}
    assert Api(sim_server.url)("POST", "/v1/completions", body).status == 200
    after = [sim_server.metric(f"vllm:{name}_seconds_sum") for name in names]
    queue, prefill, first, decode = (end - begin for begin, end in zip(before, after, strict=True))
    assert queue + prefill == pytest.approx(first, rel=0.01)
    assert prefill > 0.003, "what 300 tokens take in the simulated engine"
    assert decode > 4 * 19 * 0.001
    assert [sim_server.metric(f"vllm:{name}_seconds_count") for name in names] == [n + 4 for n in counts]


def test_answers_are_counted_by_route_and_status(logging_server: Server) -> None:
    api = Api(logging_server.url)
    assert api("POST", "/v1/completions", {"prompt": "Hi", "max_tokens": 1}, KEY).status == 200
    assert api("POST", "/v1/completions", {"prompt": 5}, KEY).status == 400
    assert api("GET", "/v1/sessions/none", None, KEY).status == 404
    assert api("GET", "/nothing/at/all", None, KEY).status == 404
    text = api("GET", "/metrics").body
    for route, status in (
        ("/v1/completions", 200),
        ("/v1/completions", 400),
        ("/v1/sessions/{session}", 404),
        ("unknown", 404),
    ):
        assert re.search(
            rf'^parrot:http_requests_total\{{.*route="{re.escape(route)}",status="{status}"', text, re.M
        )


def test_log_lines_carry_the_ids_of_what_they_are_about(logging_server: Server) -> None:
    api = Api(logging_server.url)
    answer = api(
        "POST", "/v1/completions", {"prompt": "Hi", "max_tokens": 1}, KEY | {"X-Request-Id": "mine-1"}
    )
    assert answer.status == 200
    assert until(lambda: any(line.get("request") == "mine-1" for line in lines(logging_server)))
    line = next(line for line in lines(logging_server) if line.get("request") == "mine-1")
    assert line["logger"] == "server.access"
    assert line["message"].startswith("POST /v1/completions 200")


def test_the_story_of_a_request_and_of_a_session_is_told_to_their_key_alone(logging_server: Server) -> None:
    api = Api(logging_server.url)
    assert (
        api("POST", "/v1/completions", {"prompt": "Hi", "max_tokens": 1, "request_id": "told"}, KEY).status
        == 200
    )
    story = api("GET", "/v1/admin/story/told", None, KEY)
    assert story.status == 200
    (task,) = story.body["tasks"]
    assert any("placed on engine 0" in line for line in task["story"])
    assert api("GET", "/v1/admin/story/told", None, OTHER).status == 404
    assert api("GET", "/v1/admin/story/told").status == 401

    output = {"name": "a", "in_out": True, "sampling": {"max_tokens": 1}}
    program = {"calls": [{"prompt": "Hi {{output:a}}", "placeholders": [output]}]}
    session = api("POST", "/v1/programs", program, KEY).body["session_id"]
    assert len(api("GET", f"/v1/admin/story/{session}", None, KEY).body["tasks"]) == 1
