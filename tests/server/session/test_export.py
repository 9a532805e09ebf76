"""The graph and the trace as documents."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from server.errors import BadRequest
from server.session import export
from server.session.events import TaskFinished, TaskStarted
from tests.server.session.programs import Program


def ran() -> Program:
    program = Program()
    maps = [f"Map {{{{input:doc}}}} {{{{output:p{n}}}}}" for n in range(2)]
    tasks = program.submit(
        *maps, "{{input:p0}}{{input:p1}}{{output:all}}", variables={"doc": "d"}, get=["all"]
    ).ready
    program.start(tasks[0])
    program.finish(tasks[0], "text")
    return program


def test_the_json_graph_has_variables_calls_groups_objectives_and_states() -> None:
    document = json.loads(export.graph(ran().session, "json"))
    assert [(v["name"], v["state"]) for v in document["variables"]] == [
        ("doc", "ready"),
        ("p0", "ready"),
        ("p1", "pending"),
        ("all", "pending"),
    ]
    assert [call["state"] for call in document["calls"]] == ["done", "ready", "pending"]
    (group,) = document["groups"]
    assert group["tasks"] == [call["tasks"][0]["id"] for call in document["calls"][:2]]
    assert {variable["objective"] for variable in document["variables"][1:]} == {"latency"}


@pytest.mark.parametrize(("format", "arrow"), [("dot", "->"), ("mermaid", "-->")])
def test_pictures_have_every_node_and_edge(format: str, arrow: str) -> None:
    text = export.graph(ran().session, format)
    assert text.count(f" {arrow} ") == 7
    assert all(name in text for name in ("doc", "p0", "p1", "all"))


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(BadRequest) as error:
        export.graph(ran().session, "png")
    assert error.value.info.param == "format"


def test_the_trace_has_a_row_for_each_call_and_spans_that_do_not_overlap() -> None:
    program = ran()
    events = json.loads(export.trace(program.session, now=10.0))["traceEvents"]
    assert {event["ph"] for event in events} == {"X", "M"}
    rows = {event["tid"] for event in events if event["name"] == "thread_name"}
    assert rows == {1, 2, 3}
    for row in rows:
        spans = [event for event in events if event["ph"] == "X" and event["tid"] == row]
        for before, after in pairwise(spans):
            assert before["ts"] + before["dur"] <= after["ts"]
    generated = [event for event in events if event["name"] == "generate: p0"]
    assert generated[0]["dur"] == 1e6
    assert generated[0]["args"]["completion_tokens"] == 2
    waiting = [event for event in events if event["name"] == "wait for inputs: all"]
    assert waiting[0]["ts"] + waiting[0]["dur"] == 10e6


def test_each_task_tells_its_engine_its_time_in_queues_and_why_it_went_there() -> None:
    program = Program()
    (task,) = program.submit("{{output:x}}", get=["x"]).ready
    program.apply(TaskStarted(task.id, 1, "best of 2, fits"))
    program.apply(TaskFinished(task.id, "text", (5,), queue_ms=250.0))
    (call,) = json.loads(export.graph(program.session, "json"))["calls"]
    node = call["tasks"][0]
    assert (node["engine"], node["reason"]) == (1, "best of 2, fits")
    assert node["queue_ms"] == 1250.0, "a second for a place and then in the engine"
    events = json.loads(export.trace(program.session, now=10.0))["traceEvents"]
    queued, generated = (event for event in events if event["name"] in ("queued: x", "generate: x"))
    assert (queued["dur"], generated["dur"]) == (1.25e6, 0.75e6)
    assert generated["args"]["reason"] == "best of 2, fits"
