"""What a client wants soon comes soon: each criterion from the request down to the engine, on the simulated one."""

from __future__ import annotations

import pytest

from bench.serving import serve
from tests.e2e.api import Api, until

Criteria = str | dict[str, float]


def call(prompt: str, max_tokens: int) -> dict[str, object]:
    sampling = {"temperature": 0, "max_tokens": max_tokens, "ignore_eos": True}
    return {
        "prompt": f"{prompt} {{{{output:out}}}}",
        "placeholders": [{"name": "out", "in_out": "out", "sampling": sampling}],
    }


def submitted(api: Api, prompt: str, max_tokens: int, criteria: str) -> str:
    """A session of its own with one call, asked for; the path of the call."""
    session = api.session()
    made = api("POST", f"{session}/calls", call(prompt, max_tokens)).body["calls"][0]
    api("GET", f"{session}/variables/out?criteria={criteria}&wait=0")
    return f"{session}/calls/{made['id']}"


def finished(api: Api, path: str) -> float:
    assert until(lambda: api("GET", path).body["state"] == "done", 30.0)
    return float(api("GET", path).body["timing"]["finished"])


@pytest.mark.parametrize("criteria", ["ttft_ms:50", "deadline_ms:400"])
def test_what_is_wanted_within_a_time_overtakes_what_came_before(criteria: str) -> None:
    with serve("--engine", "sim", "--max-num-seqs", "1", "--sim-step-ms", "4") as server:
        api = Api(server.url)
        others = [submitted(api, f"number {number}", 60, "latency") for number in range(3)]
        wanted = submitted(api, "wanted", 10, criteria)
        times = [finished(api, path) for path in others]
        assert finished(api, wanted) < sorted(times)[1], "at most one of them was nearly done"
        info = api("GET", wanted).body
        assert info["objective"] == criteria.replace("ttft_ms", "within_ms").replace(
            "deadline_ms", "within_ms"
        )


def test_a_deadline_of_the_last_value_hurries_all_that_it_is_made_from() -> None:
    with serve("--engine", "sim", "--max-num-seqs", "1", "--sim-step-ms", "4") as server:
        api = Api(server.url)
        others = [submitted(api, f"number {number}", 60, "latency") for number in range(4)]
        sampling = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}
        chain = [
            {"prompt": prompt, "placeholders": [{"name": name, "in_out": "out", "sampling": sampling}]}
            for name, prompt in (("a", "One {{output:a}}"), ("b", "Two {{input:a}} {{output:b}}"))
        ]
        answer = api("POST", "/v1/programs", {"calls": chain, "get": {"b": {"deadline_ms": 500}}})
        assert answer.status == 200
        times = sorted(finished(api, path) for path in others)
        assert answer.body["timing"]["finished"] < times[1]


def ended_beside(criteria: Criteria) -> int:
    """How many patient calls with long prompts end while a stream of 60 tokens runs."""
    with serve("--engine", "sim", "--sim-step-ms", "3", "--max-num-batched-tokens", "600") as server:
        api = Api(server.url)
        patient = f"{api.session()}/calls"
        body = {"calls": [call("A chat", 60)], "get": {"out": criteria}, "stream": True}
        with api.stream("POST", "/v1/programs", body) as events:
            next(event for event in events if event.kind == "variable.delta")
            calls = [call(f"{number} " + "a word " * 600, 1) for number in range(16)]
            for index, each in enumerate(calls):
                each["placeholders"][0]["semantic_var_id"] = f"o{index}"  # type: ignore[index]
            ids = [each["id"] for each in api("POST", patient, {"calls": calls}).body["calls"]]
            next(event for event in events if event.kind == "variable.ready")
            states = [api("GET", f"{patient}/{id}").body["state"] for id in ids]
        assert "failed" not in states
        return states.count("done")


def test_a_time_per_token_leaves_little_of_a_step_to_long_prompts() -> None:
    """A step takes 3 ms, and 6 ms more with a full budget of prompt tokens, of which 4.5 ms leave a fifth."""
    assert ended_beside({"tpot_ms": 4.5}) <= 0.5 * ended_beside("latency")
