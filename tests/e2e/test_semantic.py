"""The semantic-variable API against the real process, over plain HTTP."""

from __future__ import annotations

import json

import pytest

from bench.serving import Server
from tests.e2e.api import Api, until

SHORT: dict[str, object] = {"max_tokens": 12, "temperature": 0}
LONG: dict[str, object] = {"max_tokens": 2000, "ignore_eos": True}
CHAIN = [
    {"prompt": "Once {{output:a}}", "placeholders": [{"name": "a", "sampling": SHORT}]},
    {"prompt": "Then {{input:a}} {{output:b}}", "placeholders": [{"name": "b", "sampling": SHORT}]},
]
CYCLE = [{"prompt": "{{input:a}}{{output:b}}"}, {"prompt": "{{input:b}}{{output:a}}"}]


@pytest.mark.parametrize("get", [["a", "b"], {"a": "throughput", "b": {"deadline_ms": 5000}}])
def test_a_program_answers_with_what_it_was_asked_for(api: Api, get: object) -> None:
    answer = api("POST", "/v1/programs", {"calls": CHAIN, "get": get})
    assert answer.status == 200
    assert answer.body["values"].keys() == {"a", "b"}
    assert all(isinstance(value, str) for value in answer.body["values"].values())
    assert answer.body["id"].startswith("prog_")
    assert answer.body["session_id"].startswith("sess_")
    assert answer.body["usage"]["completion_tokens"] > 0
    assert answer.body["timing"]["finished"] >= answer.body["timing"]["created"]


def test_without_get_a_program_answers_with_what_nothing_consumes(api: Api) -> None:
    answer = api("POST", "/v1/programs", {"calls": CHAIN})
    assert (answer.status, answer.body["values"].keys()) == (200, {"b"})


def test_values_are_the_same_whether_calls_come_together_or_one_by_one(api: Api) -> None:
    together = api("POST", "/v1/programs", {"calls": CHAIN, "get": ["a", "b"]}).body["values"]
    first = api("POST", "/v1/programs", {"calls": CHAIN[:1]}).body["values"]["a"]
    rest = api("POST", "/v1/programs", {"calls": CHAIN[1:], "variables": {"a": first}}).body["values"]["b"]
    assert together == {"a": first, "b": rest}


def test_a_session_of_a_program_stays_readable_and_takes_another_program(api: Api) -> None:
    first = api("POST", "/v1/programs", {"calls": CHAIN[:1]}).body
    second = api("POST", "/v1/programs", {"calls": CHAIN[1:], "session_id": first["session_id"]}).body
    assert second["session_id"] == first["session_id"]
    listed = api("GET", f"/v1/sessions/{first['session_id']}/variables").body["data"]
    assert {(variable["name"], variable["state"]) for variable in listed} >= {("a", "ready"), ("b", "ready")}


def test_two_outputs_of_one_call_continue_one_context(api: Api) -> None:
    call = {
        "prompt": "Tom said: {{output:first}} Then he said: {{output:second}}",
        "placeholders": [{"name": name, "sampling": SHORT} for name in ("first", "second")],
    }
    body = api("POST", "/v1/programs", {"calls": [call]}).body
    assert body["values"].keys() == {"first", "second"}
    parts = call["prompt"], body["values"]["first"]
    whole = api("POST", "/tokenize", {"prompt": str(parts[0]) + parts[1]}).body["count"]
    assert body["usage"]["prompt_tokens"] - body["usage"]["cached_tokens"] <= whole, "no second prefill"


def test_chat_messages_hold_placeholders(api: Api) -> None:
    call = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Write about {{input:who}}."}]},
            {"role": "assistant", "content": "{{output:story}}"},
        ],
        "placeholders": [{"name": "story", "sampling": SHORT}],
    }
    answer = api("POST", "/v1/programs", {"calls": [call], "variables": {"who": "a fox"}})
    assert (answer.status, answer.body["values"].keys()) == (200, {"story"})


def test_a_failing_transform_in_mid_chain_fails_what_depends_on_it(api: Api) -> None:
    failing = {
        "prompt": "Then {{input:a}} {{output:b}}",
        "placeholders": [{"name": "b", "transforms": "json_field('x')", "sampling": SHORT}],
    }
    after = {"prompt": "And {{input:b}} {{output:c}}"}
    last = {"prompt": "So {{input:c}} {{output:d}}"}
    answer = api("POST", "/v1/programs", {"calls": [CHAIN[0], failing, after, last], "get": ["a", "b", "d"]})
    assert answer.status == 424
    assert answer.body["values"].keys() == {"a"}
    assert answer.body["errors"].keys() == {"b", "d"}
    assert [cause["variable"] for cause in answer.body["errors"]["d"]["cause"]] == ["c", "b"]
    assert answer.body["error"].keys() == {"message", "type", "param", "code"}
    session = f"/v1/sessions/{answer.body['session_id']}"
    one = api("GET", f"{session}/variables/d")
    assert one.status == 424
    assert one.body["state"] == "failed"
    assert {"message", "type", "param", "code", "cause"} <= one.body["error"].keys()


def test_a_cycle_is_refused_and_nothing_of_it_is_kept(api: Api) -> None:
    assert api("POST", "/v1/programs", {"calls": CYCLE}).status == 409
    session = api.session()
    answer = api("POST", f"{session}/calls", {"calls": [*CHAIN[:1], *CYCLE]})
    assert (answer.status, answer.body["error"]["type"]) == (409, "invalid_request_error")
    assert api("GET", f"{session}/variables").body["data"] == []
    assert api("POST", f"{session}/calls", {"calls": CHAIN}).status == 201


def test_a_second_producer_is_refused(api: Api) -> None:
    session = api.session()
    assert api("POST", f"{session}/calls", CHAIN[0]).status == 201
    assert api("POST", f"{session}/calls", CHAIN[0]).status == 409


def test_a_variable_is_assigned_once(api: Api) -> None:
    variable = f"{api.session()}/variables/x"
    assert api("PUT", variable, {"value": "one"}).status == 201
    assert api("PUT", variable, {"value": "one"}).status == 200
    assert api("PUT", variable, {"value": "two"}).status == 409
    assert api("GET", variable).body["value"] == "one"


def test_a_variable_that_a_call_produces_cannot_be_set(api: Api) -> None:
    session = api.session()
    api("POST", f"{session}/calls", CHAIN[0])
    assert api("PUT", f"{session}/variables/a", {"value": "x"}).status == 409


def test_a_variable_that_nobody_will_set_answers_with_the_reason(api: Api) -> None:
    session = api.session()
    api("POST", f"{session}/calls", CHAIN[1])
    for name, wait in (("b", 0), ("a", 0), ("b", 0.2)):
        answer = api("GET", f"{session}/variables/{name}?wait={wait}")
        assert answer.status == 202
        assert answer.body["name"] == name
        assert "a" in answer.body["reason"]
    assert api("PUT", f"{session}/variables/a", {"value": "late"}).status == 201
    assert api("GET", f"{session}/variables/b").status == 200


def test_a_program_that_waits_for_a_client_answers_with_what_there_is(api: Api) -> None:
    """Nothing that runs can bring `never`: the answer says so at once, and names the session to set it in."""
    program = {"calls": [{"prompt": "{{input:never}}{{output:a}}"}, {"prompt": "Once{{output:b}}"}]}
    answer = api("POST", "/v1/programs", program)
    assert (answer.status, answer.body["status"]) == (202, "running")
    assert answer.body["pending"]["a"]["state"] == "pending"
    assert "never" in answer.body["pending"]["a"]["reason"]
    assert "b" in answer.body["values"]
    session, name = answer.body["session_id"], answer.body["id"]
    assert api("PUT", f"/v1/sessions/{session}/variables/never", {"value": "Once upon a time"}).status in (
        200,
        201,
    )
    assert api("GET", f"/v1/programs/{name}?wait=30").status == 200


def test_a_stream_of_what_nobody_will_set_ends_and_says_why(api: Api) -> None:
    events = api.events(
        "POST", "/v1/programs", {"calls": [{"prompt": "{{input:never}}{{output:a}}"}], "stream": True}
    )
    assert [event.kind for event in events] == ["program.created", "variable.pending", "program.done", ""]
    assert "never" in events[1].data["pending"]["reason"]
    session = events[0].data["session_id"]
    events = api.events("GET", f"/v1/sessions/{session}/variables/never?stream=true&wait=0.2")
    assert [event.kind for event in events] == ["variable.pending", ""]


def test_a_call_starts_after_what_it_waits_for_is_told(api: Api) -> None:
    new = {**CHAIN[0], "prompt": "Once, in the order of things, {{output:a}}"}
    program = {"calls": [new, CHAIN[1]], "get": ["a", "b"], "stream": True}
    for events in (api.events("POST", "/v1/programs", program), api.events("POST", "/v1/programs", program)):
        told = [(e.kind, e.data.get("name")) for e in events[:-1] if e.kind != "variable.delta"]
        assert told == [
            ("program.created", None),
            ("call.started", None),
            ("variable.ready", "a"),
            ("call.finished", None),
            ("call.started", None),
            ("variable.ready", "b"),
            ("call.finished", None),
            ("program.done", None),
        ]


def test_a_prompt_that_cannot_fit_is_refused_unread(api: Api) -> None:
    program = {
        "variables": {"j": "0," * 900_000},
        "calls": [{"prompt": "{{input:j}}{{input:j}}{{output:a}}"}],
    }
    answer = api("POST", "/v1/programs", program)
    assert (answer.status, answer.body["errors"]["a"]["code"]) == (424, "context_length_exceeded")


def test_a_name_that_nothing_mentions_is_not_found(api: Api) -> None:
    assert api("GET", f"{api.session()}/variables/x").status == 404
    assert api("GET", "/v1/sessions/sess_x/variables/x").status == 404
    assert api("GET", "/v1/programs/prog_x").status == 404


def test_a_deleted_session_is_gone(api: Api) -> None:
    session = api.session()
    assert session.rsplit("/", 1)[1] in {found["id"] for found in api("GET", "/v1/sessions").body["data"]}
    api("PUT", f"{session}/variables/x", {"value": "one"})
    assert api("DELETE", session).status == 200
    assert api("GET", f"{session}/variables/x").status == 410
    assert session.rsplit("/", 1)[1] not in {found["id"] for found in api("GET", "/v1/sessions").body["data"]}


def test_a_session_says_what_it_was_made_with(api: Api) -> None:
    made = api("POST", "/v1/sessions", {"ttl": 60, "metadata": {"user": "me"}})
    assert made.status == 201
    assert 0 < made.body["expires_at"] - made.body["created_at"] <= 60
    assert api("GET", f"/v1/sessions/{made.body['id']}").body["metadata"] == {"user": "me"}


def test_a_streamed_program_tells_its_events_in_order(api: Api) -> None:
    new = {**CHAIN[0], "prompt": "Once, told while we listen, {{output:a}}"}  # not answered from memory
    events = api.events("POST", "/v1/programs", {"calls": [new, CHAIN[1]], "get": ["a", "b"], "stream": True})
    kinds = [event.kind for event in events]
    assert kinds[0] == "program.created"
    assert kinds[-2:] == ["program.done", ""]
    assert events[-1].data == "[DONE]"
    assert all(event.data["type"] == event.kind for event in events[:-1])
    assert kinds.index("call.started") < kinds.index("variable.delta") < kinds.index("variable.ready")
    assert kinds.count("call.finished") == 2
    values = events[-2].data["values"]
    for name in ("a", "b"):
        deltas = [e.data["delta"] for e in events if e.kind == "variable.delta" and e.data["name"] == name]
        ready = [e.data["value"] for e in events if e.kind == "variable.ready" and e.data["name"] == name]
        assert ["".join(deltas)] == ready == [values[name]]
        assert len(deltas) > 1


def test_a_transformed_variable_has_no_deltas(api: Api) -> None:
    call = {
        "prompt": "Once {{output:a}}",
        "placeholders": [{"name": "a", "transforms": "upper", "sampling": SHORT}],
    }
    events = api.events("POST", "/v1/programs", {"calls": [call], "stream": True})
    assert "variable.delta" not in [event.kind for event in events]
    value = next(event.data["value"] for event in events if event.kind == "variable.ready")
    assert value == value.upper() != ""


def test_a_late_subscriber_gets_the_text_so_far_as_one_delta(api: Api) -> None:
    program = api("POST", "/v1/programs", {"calls": CHAIN, "get": ["a"]}).body
    events = api.events("GET", f"/v1/sessions/{program['session_id']}/variables/a?stream=true")
    assert [event.kind for event in events] == ["variable.delta", "variable.ready", ""]
    assert events[0].data["delta"] == program["values"]["a"]


def test_the_whole_text_reaches_who_subscribes_in_the_middle(sim: Api) -> None:
    session = sim.session()
    sampling = {"max_tokens": 200, "ignore_eos": True}
    sim(
        "POST",
        f"{session}/calls",
        {"prompt": "x{{output:a}}", "placeholders": [{"name": "a", "sampling": sampling}]},
    )
    with sim.stream("GET", f"{session}/variables/a?stream=true") as first:
        assert next(first).kind == "variable.delta"
        late = sim.events("GET", f"{session}/variables/a?stream=true")
    text = "".join(event.data["delta"] for event in late if event.kind == "variable.delta")
    assert text == late[-2].data["value"] == sim("GET", f"{session}/variables/a").body["value"]


def test_a_client_that_leaves_a_program_cancels_it(sim: Api, sim_server: Server) -> None:
    call = {"prompt": "x{{output:a}}", "placeholders": [{"name": "a", "sampling": LONG}]}
    with sim.stream("POST", "/v1/programs", {"calls": [call], "stream": True}) as events:
        session = next(events).data["session_id"]
        assert any(event.kind == "variable.delta" for event in events)
        assert sim("GET", f"/v1/sessions/{session}/variables/a?wait=0").body["state"] == "running"
    assert until(lambda: sim_server.metric("vllm:num_requests_running") == 0, 2.0)
    answer = sim("GET", f"/v1/sessions/{session}/variables/a")
    assert (answer.status, answer.body["state"]) == (424, "cancelled")


def test_a_get_that_leaves_cancels_nothing(sim: Api) -> None:
    session = sim.session()
    sampling = {"max_tokens": 300, "ignore_eos": True}
    sim(
        "POST",
        f"{session}/calls",
        {"prompt": "x{{output:a}}", "placeholders": [{"name": "a", "sampling": sampling}]},
    )
    with sim.stream("GET", f"{session}/variables/a?stream=true") as events:
        assert next(events).kind == "variable.delta"
    assert sim("GET", f"{session}/variables/a").status == 200


def test_a_program_with_an_idempotency_key_runs_on_and_a_retry_joins_it(sim: Api) -> None:
    sampling = {"max_tokens": 100, "ignore_eos": True}
    call = {"prompt": "x{{output:a}}", "placeholders": [{"name": "a", "sampling": sampling}]}
    key = {"Idempotency-Key": "test-1"}
    first = sim("POST", "/v1/programs", {"calls": [call], "wait": 0}, key)
    assert (first.status, list(first.body["pending"])) == (202, ["a"])
    again = sim("POST", "/v1/programs", {"calls": [call], "wait": 0}, key)
    assert again.body["id"] == first.body["id"]
    assert sim("POST", "/v1/programs", {"calls": CHAIN, "wait": 0}, key).status == 422
    assert sim("GET", f"/v1/programs/{first.body['id']}?wait=30").status == 200
    assert sim("POST", "/v1/programs", {"calls": [call], "wait": 0}, key).body["values"].keys() == {"a"}


def test_a_program_that_is_waited_for_in_vain_can_be_looked_at_and_cancelled(sim: Api) -> None:
    call = {"prompt": "x{{output:a}}", "placeholders": [{"name": "a", "sampling": LONG}]}
    started = sim("POST", "/v1/programs", {"calls": [call], "wait": 0.01})
    assert (started.status, started.body["status"]) == (202, "running")
    program = f"/v1/programs/{started.body['id']}"
    assert sim("GET", program).status == 202
    ended = sim("DELETE", program)
    assert (ended.status, ended.body["status"]) == (200, "cancelled")
    assert sim("GET", program).status == 424


def test_a_cancelled_call_fails_its_outputs_and_their_consumers(sim: Api) -> None:
    session = sim.session()
    call = {"prompt": "x{{output:a}}", "placeholders": [{"name": "a", "sampling": LONG}]}
    handles = sim("POST", f"{session}/calls", {"calls": [call, CHAIN[1]]}).body["calls"]
    path = f"{session}/calls/{handles[0]['id']}"
    assert sim("GET", path).body["state"] in ("ready", "running")
    assert sim("DELETE", path).body["state"] == "cancelled"
    assert sim("GET", f"{session}/variables/a").body["state"] == "cancelled"
    answer = sim("GET", f"{session}/variables/b")
    assert (answer.status, answer.body["error"]["cause"][0]["variable"]) == (424, "a")


def test_a_call_says_what_it_cost(api: Api) -> None:
    session = api.session()
    handle = api("POST", f"{session}/calls", CHAIN[0]).body["calls"][0]
    assert api("GET", f"{session}/variables/{handle['outputs']['a']}").status == 200
    info = api("GET", f"{session}/calls/{handle['id']}").body
    assert info["state"] == "done"
    assert info["usage"]["prompt_tokens"] > 0
    assert info["timing"]["finished"] >= info["timing"]["started"]


def test_many_values_come_in_one_exchange(api: Api) -> None:
    session = api.session()
    api("POST", f"{session}/calls", {"calls": [*CHAIN, {"prompt": "{{input:never}}{{output:c}}"}]})
    answer = api("POST", f"{session}/get", {"variables": {"a": "latency", "b": {"deadline_ms": 5000}}})
    assert (answer.status, answer.body["values"].keys()) == (200, {"a", "b"})
    answer = api("POST", f"{session}/get", {"variables": ["a", "c"], "wait": 0.1})
    assert (answer.status, answer.body["values"].keys(), list(answer.body["pending"])) == (202, {"a"}, ["c"])


def test_the_papers_two_operations_work_to_the_letter(api: Api) -> None:
    session = api.session().rsplit("/", 1)[1]
    submitted = api(
        "POST",
        "/v1/submit",
        {
            "prompt": "Write about {{input:task}}: {{output:code}}",
            "placeholders": [
                {
                    "name": "task",
                    "in_out": False,
                    "value": "a game",
                    "semantic_var_id": None,
                    "transforms": None,
                },
                {
                    "name": "code",
                    "in_out": True,
                    "semantic_var_id": None,
                    "transforms": "strip",
                    "sampling": SHORT,
                },
            ],
            "session_id": session,
        },
    )
    assert submitted.status == 201
    code = submitted.body["calls"][0]["outputs"]["code"]
    bound = {p["name"]: (p["in_out"], p["semantic_var_id"]) for p in submitted.body["placeholders"]}
    assert bound["code"] == (True, code)
    assert bound["task"][0] is False
    got = api("POST", "/v1/get", {"semantic_var_id": code, "criteria": "latency", "session_id": session})
    assert (got.status, got.body["id"], got.body["state"]) == (200, code, "ready")


def test_values_are_never_parsed_for_placeholders(api: Api) -> None:
    text = "{{output:x}} {{input:y}} {{input:}}"
    program = {
        "variables": {"v": text},
        "calls": [{"prompt": "{{input:v}} {{output:a}}", "placeholders": [{"name": "a", "sampling": SHORT}]}],
        "get": ["v", "a"],
    }
    answer = api("POST", "/v1/programs", program)
    assert (answer.status, answer.body["values"]["v"]) == (200, text)


def test_transforms_are_a_pipeline_over_outputs_and_inputs(api: Api) -> None:
    call = {
        "prompt": "{{input:v}} {{output:a}}",
        "placeholders": [
            {"name": "v", "transforms": "upper"},
            {"name": "a", "transforms": "strip | truncate(3) | prefix('<') | suffix('>')", "sampling": SHORT},
        ],
    }
    value = api("POST", "/v1/programs", {"calls": [call], "variables": {"v": "once"}}).body["values"]["a"]
    assert value.startswith("<")
    assert value.endswith(">")
    assert len(value) <= 5


def test_a_warning_tells_of_text_after_an_output_that_may_not_stop(api: Api) -> None:
    handle = api("POST", f"{api.session()}/calls", {"prompt": "{{output:a}} and {{output:b}}"}).body["calls"][
        0
    ]
    assert "a" in handle["warnings"][0]


def test_a_graph_comes_in_three_formats(api: Api) -> None:
    session = f"/v1/sessions/{api('POST', '/v1/programs', {'calls': CHAIN}).body['session_id']}"
    as_json = api("GET", f"{session}/graph")
    assert as_json.content_type.startswith("application/json")
    assert {"a", "b"} <= {variable["name"] for variable in as_json.body["variables"]}
    dot = api("GET", f"{session}/graph?format=dot")
    assert dot.content_type.startswith("text/vnd.graphviz")
    assert dot.body.startswith("digraph")
    mermaid = api("GET", f"{session}/graph?format=mermaid")
    assert mermaid.content_type.startswith("text/plain")
    assert mermaid.body.startswith(("graph", "flowchart"))
    assert api("GET", f"{session}/graph?format=png").status == 400


def test_a_trace_opens_in_perfetto(api: Api) -> None:
    session = f"/v1/sessions/{api('POST', '/v1/programs', {'calls': CHAIN}).body['session_id']}"
    spans = [event for event in api("GET", f"{session}/trace").body["traceEvents"] if event["ph"] == "X"]
    assert spans
    assert all(event["dur"] >= 0 for event in spans)


def test_a_chain_of_twenty_calls_runs_in_one_exchange(api: Api) -> None:
    sampling = {"max_tokens": 4, "temperature": 0, "ignore_eos": True}
    calls = []
    for index in range(20):
        source = f"{{{{input:v{index - 1}}}}}" if index else "Once"
        placeholder = {"name": f"v{index}", "sampling": sampling}
        calls.append({"prompt": f"{source} and {{{{output:v{index}}}}}", "placeholders": [placeholder]})
    answer = api("POST", "/v1/programs", {"calls": calls})
    assert (answer.status, answer.body["values"].keys()) == (200, {"v19"})
    assert answer.body["usage"]["completion_tokens"] == 80


REFUSED: list[tuple[str, object, int, str | None]] = [
    ("/v1/programs", b"{", 400, None),
    ("/v1/programs", {}, 400, "calls"),
    ("/v1/programs", {"calls": "x"}, 400, "calls"),
    ("/v1/programs", {"calls": []}, 400, "calls"),
    ("/v1/programs", {"calls": [{}]}, 400, "calls[0]"),
    ("/v1/programs", {"calls": [{"prompt": "no output"}]}, 400, "calls[0].prompt"),
    ("/v1/programs", {"calls": [{"prompt": "{{input:}}{{output:a}}"}]}, 400, "calls[0].prompt"),
    ("/v1/programs", {"calls": [{"prompt": "{{inout:x}}{{output:a}}"}]}, 400, "calls[0].prompt"),
    ("/v1/programs", {"calls": [{"prompt": "{{output:a}}{{output:a}}"}]}, 400, "calls[0].prompt"),
    ("/v1/programs", {"calls": [{"prompt": "{{input:a}}{{output:a}}"}]}, 400, "calls[0].prompt"),
    ("/v1/programs", {"calls": CHAIN, "get": ["zzz"]}, 404, "get"),
    ("/v1/programs", {"calls": CHAIN, "get": {"a": "fast"}}, 400, "get"),
    ("/v1/programs", {"calls": CHAIN, "get": {"a": {"ttft_ms": -1}}}, 400, "get"),
    ("/v1/programs", {"calls": CHAIN, "wait": 301}, 400, "wait"),
    ("/v1/programs", {"calls": CHAIN, "variables": {"a b": "x"}}, 400, "variables"),
    ("/v1/programs", {"calls": CHAIN, "variables": {"c": 1}}, 400, "variables"),
    ("/v1/programs", {"calls": CHAIN, "variables": {"a": "x"}}, 409, None),
    ("/v1/programs", {"calls": CHAIN, "model": "zzz"}, 404, "model"),
    ("/v1/programs", {"calls": CHAIN, "session_id": "sess_zzz"}, 404, "session_id"),
    ("/v1/submit", {"prompt": "{{output:a}}"}, 400, "session_id"),
]


@pytest.mark.parametrize(("path", "body", "status", "param"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_served_is_refused_by_name(
    api: Api, path: str, body: object, status: int, param: str | None
) -> None:
    answer = api("POST", path, body)
    assert answer.status == status, answer.body
    assert answer.body["error"].keys() == {"message", "type", "param", "code"}
    assert param is None or str(answer.body["error"]["param"]).startswith(param), answer.body


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sampling", {"n": 2}),
        ("sampling", {"temperature": -1}),
        ("sampling", {"max_tokens": 0}),
        ("sampling", {"stop": ["x"] * 100}),
        ("transforms", "explode"),
        ("transforms", "regex('(')"),
        ("semantic_var_id", "no spaces"),
        ("format", {"type": "regex", "regex": "("}),
        ("format", {"type": "poem"}),
    ],
)
def test_a_placeholder_that_cannot_be_honoured_is_refused_by_name(
    api: Api, field: str, value: object
) -> None:
    call = {"prompt": "x{{output:a}}", "placeholders": [{"name": "a", field: value}]}
    answer = api("POST", "/v1/programs", {"calls": [call]})
    assert answer.status == 400, answer.body
    assert field in answer.body["error"]["param"]
    assert api("POST", "/v1/programs", {"calls": CHAIN}).status == 200, "a canary"


@pytest.mark.parametrize(
    "query", ["criteria=fast", "criteria=ttft_ms:x", "wait=301", "wait=nan", "stream=maybe", "wiat=0"]
)
def test_a_query_that_cannot_be_honoured_is_refused_by_name(api: Api, query: str) -> None:
    session = api.session()
    api("PUT", f"{session}/variables/x", {"value": "one"})
    answer = api("GET", f"{session}/variables/x?{query}")
    assert (answer.status, answer.body["error"]["param"]) == (400, query.split("=")[0])


def test_what_may_be_streamed_has_no_head(api: Api) -> None:
    session = api.session()
    api("PUT", f"{session}/variables/x", {"value": "one"})
    assert api("HEAD", f"{session}/variables/x?stream=true").status == 405
    assert api("HEAD", session).status == 200


def test_limits_may_stand_in_a_query(api: Api) -> None:
    session = api.session()
    api("POST", f"{session}/calls", CHAIN[0])
    assert api("GET", f"{session}/variables/a?criteria=ttft_ms:200,tpot_ms:40").status == 200


def test_a_value_is_a_string(api: Api) -> None:
    answer = api("PUT", f"{api.session()}/variables/x", {"value": 1})
    assert (answer.status, answer.body["error"]["param"]) == (400, "value")


def test_null_is_absent_and_members_come_in_any_order(api: Api) -> None:
    call = {
        "criteria": None,
        "messages": None,
        "placeholders": None,
        "model": None,
        "prompt": "Once {{output:a}}",
    }
    body = {"stream": None, "wait": None, "get": None, "session_id": None, "variables": None, "calls": [call]}
    text = json.dumps(body).encode()
    assert (
        api("POST", "/v1/programs", text, {"Content-Type": "application/x-www-form-urlencoded"}).status == 200
    )
