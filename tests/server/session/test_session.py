"""A session's life: events in, effects out."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import pytest

from engine.types import Urgency
from parrot import wire
from parrot.wire import Call, Placeholder
from server.errors import BadRequest, Conflict, Gone, NotFound, TooLarge
from server.graph.call import Task
from server.session import views
from server.session.events import (
    CallsCancelled,
    Effects,
    SessionClosed,
    SessionEvent,
    TaskFailed,
    TaskFinished,
    TaskOutput,
    TaskStarted,
)
from server.session.limits import Limits
from server.session.session import Session
from tests.server.session.programs import Program, outputs, prompt

WRITE = "Write python code of {{input:task}}.\nCode: {{output:code}}"
TEST = "You test {{input:task}}.\nCode: {{input:code}}.\nTest: {{output:test}}"


def test_a_call_is_ready_the_moment_its_inputs_exist() -> None:
    program = Program()
    assert program.submit(TEST, WRITE).ready == ()
    effects = program.set("task", "a snake game")
    assert outputs(effects.ready) == ["code"]
    assert prompt(effects.ready[0]) == "Write python code of a snake game.\nCode: "
    effects = program.finish(effects.ready[0], "print()")
    assert outputs(effects.ready) == ["test"]
    assert prompt(effects.ready[0]) == "You test a snake game.\nCode: print().\nTest: "
    assert program.finish(effects.ready[0], "assert").ready == ()
    assert program.value("test") == "assert"


def test_variables_go_through_their_states() -> None:
    program = Program()
    (task,) = program.submit(WRITE, variables={"task": "x"}).ready
    assert program.state("code") == "pending"
    effects = program.start(task)
    assert program.state("code") == "running"
    assert effects.calls_started == (task.call.id,)
    assert effects.variables == (task.output.id,)
    effects = program.finish(task, "y")
    assert program.state("code") == "ready"
    assert effects.calls_finished == (task.call.id,)
    assert task.call.state == "done"


def test_text_grows_and_late_readers_get_it_from_any_position() -> None:
    program = Program()
    (task,) = program.submit(WRITE, variables={"task": "x"}).ready
    program.start(task)
    for text in ("pri", "nt", "()"):
        assert program.apply(TaskOutput(task.id, text)).variables == (task.output.id,)
    variable = program.session.variable("code")
    assert [variable.since(position) for position in range(8)] == [
        "print()", "rint()", "int()", "nt()", "t()", "()", ")", "",
    ]  # fmt: skip
    program.finish(task, "print()\n")
    assert variable.since(5) == "()\n"


def test_a_variable_with_transforms_does_not_show_its_text_while_it_grows() -> None:
    program = Program()
    call = wire.Call(
        prompt="{{output:a}}", placeholders=[wire.Placeholder(name="a", transforms="strip | upper")]
    )
    (task,) = program.submit(call).ready
    program.start(task)
    assert program.apply(TaskOutput(task.id, " yes")) == Effects()
    program.finish(task, " yes ")
    assert program.value("a") == "YES"
    assert not program.session.variable("a").is_streamed


def test_a_task_that_starts_over_on_another_engine_keeps_its_text() -> None:
    program = Program()
    (task,) = program.submit(WRITE, variables={"task": "x"}).ready
    program.start(task)
    program.apply(TaskOutput(task.id, "pri"))
    assert program.apply(TaskStarted(task.id, 1)) == Effects()
    assert program.session.variable("code").since(0) == "pri"
    assert views.call_info(task.call).engine == 1


def test_several_outputs_of_a_call_continue_one_context() -> None:
    program = Program()
    (first,) = program.submit(
        "Plan: {{output:plan}}; for {{input:x}}: {{output:code}} trailing {{input:never}}"
    ).ready
    program.set("x", "X")
    (second,) = program.finish(first, "think", 5, 6).ready
    assert prompt(second) == "Plan: [think]; for X: "
    assert views.call_info(first.call).state == "running"
    program.finish(second, "done")
    assert views.call_info(first.call).state == "done"
    assert program.state("never") == "empty"


def test_an_input_between_two_outputs_may_depend_on_the_first() -> None:
    program = Program()
    (first,) = program.submit("{{output:a}} then {{input:b}} {{output:c}}", "{{input:a}} {{output:b}}").ready
    (other,) = program.finish(first, "A").ready
    assert outputs([other]) == ["b"]
    (last,) = program.finish(other, "B").ready
    assert prompt(last) == "[A] then B "


def test_input_transforms_apply_before_the_fill() -> None:
    program = Program()
    call = wire.Call(
        prompt="{{input:x}}{{output:y}}", placeholders=[wire.Placeholder(name="x", transforms="truncate(2)")]
    )
    (task,) = program.submit(call, variables={"x": "abcdef"}).ready
    assert prompt(task) == "ab"
    assert program.value("x") == "abcdef"


def test_values_are_never_parsed_for_placeholders() -> None:
    program = Program()
    (task,) = program.submit(WRITE, variables={"task": "{{input:task}} {{output:code}}"}).ready
    assert "of {{input:task}} {{output:code}}.\n" in prompt(task)


def test_a_failure_reaches_all_transitive_consumers_with_its_cause() -> None:
    program = Program()
    (task, other) = program.submit(
        "{{output:a}}", "{{output:z}}", "{{input:a}} {{output:b}}", "{{input:b}} {{input:z}} {{output:c}}"
    ).ready
    effects = program.apply(TaskFailed(task.id, "the engine died", "engine_error"))
    assert set(effects.variables) == {program.session.variable(name).id for name in "abc"}
    assert len(effects.calls_finished) == 3
    error = views.error_of(program.session.variable("c"))
    assert error is not None
    assert (error.code, [cause.variable for cause in error.cause]) == ("dependency_failed", ["b", "a"])
    assert error.cause[-1].message == "the engine died"
    assert error.cause[-1].call == task.call.id
    assert program.finish(other, "fine").ready == ()
    assert program.state("z") == "ready"


def test_a_call_on_a_variable_that_has_failed_fails_at_once() -> None:
    program = Program()
    (task,) = program.submit("{{output:a}}").ready
    program.apply(TaskFailed(task.id, "no"))
    effects = program.submit("{{input:a}} {{output:b}}", "{{input:b}} {{output:c}}")
    assert effects.ready == ()
    assert [program.state(name) for name in "bc"] == ["failed", "failed"]


def test_a_failing_transform_fails_the_value_and_its_consumers_but_not_the_context() -> None:
    program = Program()
    call = wire.Call(
        prompt="{{output:a}} and {{output:b}}",
        placeholders=[wire.Placeholder(name="a", transforms="json_field('x')")],
    )
    (task,) = program.submit(call, "{{input:a}} {{output:c}}").ready
    (following,) = program.finish(task, "no json").ready
    assert [program.state(name) for name in "abc"] == ["failed", "pending", "failed"]
    assert prompt(following) == "[no json] and "
    program.finish(following, "B")
    assert program.value("b") == "B"
    info = views.call_info(task.call)
    assert info.state == "failed"
    assert info.error is not None
    assert info.error.code == "transform_failed"


def test_an_input_that_cannot_be_transformed_fails_the_call() -> None:
    program = Program()
    call = wire.Call(
        prompt="{{input:x}}{{output:y}}", placeholders=[wire.Placeholder(name="x", transforms="code_block")]
    )
    assert program.submit(call, variables={"x": "none"}).ready == ()
    assert program.state("y") == "failed"


def test_when_an_output_fails_the_later_ones_of_its_call_fail() -> None:
    program = Program()
    (task,) = program.submit("{{output:a}} {{output:b}}").ready
    program.apply(TaskFailed(task.id, "no"))
    error = views.error_of(program.session.variable("b"))
    assert error is not None
    assert error.cause[0].variable == "a"


def test_cancelling_a_call_stops_it_and_fails_what_needs_it() -> None:
    program = Program()
    (task,) = program.submit("{{output:a}} {{output:b}}", "{{input:b}} {{output:c}}").ready
    program.start(task)
    effects = program.apply(program.session.plan_cancel(task.call.id))
    assert effects.aborted == (task,)
    assert [program.state(name) for name in "abc"] == ["cancelled", "cancelled", "failed"]
    assert task.call.state == "cancelled"
    assert program.apply(CallsCancelled((task.call.id,))) == Effects()


def test_calls_that_are_cancelled_together_are_all_cancelled() -> None:
    program = Program()
    (task,) = program.submit("{{output:a}}", "{{input:a}} {{output:b}}", "{{input:b}} {{output:c}}").ready
    program.start(task)
    first, second, third = program.session.graph.calls.values()
    effects = program.apply(program.session.plan_cancel_all([first.id, second.id]))
    assert effects.aborted == (task,)
    assert [program.state(name) for name in "abc"] == ["cancelled", "cancelled", "failed"]
    assert [call.state for call in (first, second, third)] == ["cancelled", "cancelled", "failed"]
    with pytest.raises(NotFound):
        program.session.plan_cancel_all([first.id, "call_of_nobody"])


@pytest.mark.parametrize(
    ("kind", "fail"),
    [
        ("server_error", lambda task: TaskFailed(task.id, "the engine died")),
        ("invalid_request_error", lambda task: TaskFailed(task.id, "?", "x", "invalid_request_error")),
        ("invalid_request_error", lambda task: CallsCancelled((task.call.id,))),
        ("invalid_request_error", lambda task: TaskFinished(task.id, "no code", ())),
    ],
)
def test_the_type_of_an_error_is_that_of_what_failed_first(
    kind: str, fail: Callable[[Task], SessionEvent]
) -> None:
    program = Program()
    block = Placeholder(name="a", transforms="code_block")
    chain = ["{{input:a}} {{output:b}}", "{{input:b}} {{output:c}}"]
    (task,) = program.submit(Call(prompt="{{output:a}}", placeholders=[block]), *chain).ready
    program.apply(fail(task))
    errors = [views.error_of(program.session.variable(name)) for name in "abc"]
    assert [error and error.type for error in errors] == [kind] * 3


def test_a_long_chain_is_listed_in_linear_time_and_with_few_causes() -> None:
    program = Program()
    calls = [f"{{{{input:v{n}}}}}{{{{output:v{n + 1}}}}}" for n in range(3000)]
    program.session.apply(program.plan(*calls), 1.0)
    waits = "waits for the variable 'v0', which has no producer and no value"
    start = time.process_time()
    first, *others = views.variable_infos(program.session)
    assert (first.reason, {info.reason for info in others}) == ("has no producer and no value", {waits})
    program.session.apply(program.session.plan_cancel("call_2"), 2.0)
    listed = views.variable_infos(program.session)
    assert time.process_time() - start < 1.0
    error = listed[-1].error
    assert error is not None
    assert [cause.variable for cause in error.cause] == ["v2999", "v2998", "v1"]
    assert len(msgspec.json.encode(listed)) < 1_000 * len(listed)


def test_what_comes_after_the_end_of_a_task_is_ignored() -> None:
    program = Program()
    (task,) = program.submit("{{output:a}}").ready
    program.apply(CallsCancelled((task.call.id,)))
    for event in (TaskStarted(task.id), TaskOutput(task.id, "x"), TaskFailed(task.id, "x")):
        assert program.apply(event) == Effects()
    assert program.finish(task, "x") == Effects()
    assert program.state("a") == "cancelled"


def test_closing_ends_everything_and_nothing_can_be_planned_after() -> None:
    program = Program()
    (task,) = program.submit("{{output:a}}", "{{input:x}} {{output:b}}").ready
    effects = program.apply(SessionClosed())
    assert effects.aborted == (task,)
    assert {program.state(name) for name in "abx"} == {"cancelled"}
    assert program.finish(task, "late") == Effects()
    for plan in (
        lambda: program.plan("{{output:z}}"),
        lambda: program.get("a"),
        lambda: program.set("z", "1"),
    ):
        with pytest.raises(Gone):
            plan()


def test_a_variable_is_set_once() -> None:
    program = Program()
    program.submit("{{input:x}} {{output:y}}")
    event = program.session.plan_set("x", "1", program.environment)
    assert event is not None
    assert not event.created
    assert outputs(program.apply(event).ready) == ["y"]
    assert program.session.plan_set("x", "1", program.environment) is None
    with pytest.raises(Conflict) as error:
        program.set("x", "2")
    assert error.value.info.code == "already_assigned"
    with pytest.raises(Conflict) as error:
        program.set("y", "1")
    assert error.value.info.code == "already_produced"


def test_setting_a_name_that_is_new_creates_it() -> None:
    program = Program()
    event = program.session.plan_set("new.name-1", "v", program.environment)
    assert event is not None
    assert event.created
    program.apply(event)
    assert program.value(event.id) == "v"
    for name in ("var_mine", "a b", "", "x" * 129):
        with pytest.raises((BadRequest, NotFound)):
            program.set(name, "v")


def test_a_get_of_what_nothing_mentions_is_not_found() -> None:
    program = Program()
    for ref in ("nothing", "var_nothing"):
        with pytest.raises(NotFound):
            program.get(ref)


def test_the_reason_says_what_a_variable_waits_for() -> None:
    program = Program()
    (task,) = program.submit(WRITE.replace("task", "t"), TEST, variables={"t": "x"}).ready

    def reason(ref: str) -> str | None:
        return views.variable_info(program.session.variable(ref)).reason

    assert reason("code") == f"waits for {task.call.id}, which is queued"
    assert reason("task") == "has no producer and no value"
    assert reason("test") == "waits for the variable 'task', which has no producer and no value"
    program.start(task)
    assert reason("code") == f"waits for {task.call.id}, which is running"
    program.finish(task, "x")
    assert reason("code") is None


def test_infos_count_tokens_and_time() -> None:
    program = Program()
    (task,) = program.submit(WRITE, variables={"task": "x"}).ready
    program.start(task)
    program.finish(task, "y")
    info = views.call_info(task.call)
    assert info.usage == wire.Usage(prompt_tokens=10, completion_tokens=2, total_tokens=12)
    assert (info.timing.created, info.timing.started, info.timing.finished) == (1.0, 2.0, 3.0)
    assert (info.timing.queued_ms, info.timing.run_ms) == (1000.0, 1000.0)
    session = views.session_info(program.session)
    assert (session.num_calls, session.num_variables) == (1, 2)


def test_a_get_raises_the_objective_of_all_it_depends_on_also_of_what_runs() -> None:
    program = Program()
    (task,) = program.submit(WRITE, TEST, variables={"task": "x"}).ready
    program.start(task)
    assert views.call_info(task.call).objective == "throughput"
    assert program.get("test", "throughput").reprioritised == ()
    assert program.get("test", "latency").reprioritised == (task,)
    assert task.objective.urgency is Urgency.LATENCY
    assert program.get("code", "tpot_ms:40").reprioritised == (task,)
    assert views.call_info(task.call).objective == "tpot_ms:40"
    assert program.get("code", "throughput").reprioritised == ()


def test_a_prompt_and_a_session_have_a_greatest_size() -> None:
    program = Program(limits=Limits(context=100, size=1000, value=500))
    assert program.submit("{{input:x}}" * 3 + "{{output:y}}", variables={"x": "a" * 50}).ready == ()
    error = views.error_of(program.session.variable("y"))
    assert error is not None
    assert error.code == "limit_exceeded"
    (task,) = program.submit("{{output:z}}").ready
    program.finish(task, "b" * 960)
    assert program.state("z") == "failed"
    with pytest.raises(TooLarge):
        program.set("w", "c" * 501)
    program.set("w", "c" * 490)
    with pytest.raises(TooLarge):
        program.set("v", "c" * 490)


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), 1e9])
def test_a_session_s_ttl_has_bounds(ttl: float) -> None:
    with pytest.raises(BadRequest) as error:
        Session("s", "t", 0.0, ttl=ttl)
    assert error.value.info.param == "ttl"


@pytest.mark.parametrize("metadata", [{"k": "v" * 513}, {"k" * 65: "v"}, {str(n): "" for n in range(17)}])
def test_a_session_s_metadata_are_small(metadata: dict[str, str]) -> None:
    with pytest.raises(BadRequest) as error:
        Session("s", "t", 0.0, metadata=metadata)
    assert error.value.info.param == "metadata"


@pytest.mark.parametrize("reverse", [False, True])
def test_a_chain_of_ten_thousand_calls_is_submitted_run_and_failed_in_moments(reverse: bool) -> None:
    program = Program()
    session = program.session
    calls = [wire.Call(prompt=f"Sum {{{{input:v{i}}}}}: {{{{output:v{i + 1}}}}}") for i in range(10_000)]
    start = time.process_time()
    event = session.plan_submit(calls[::-1] if reverse else calls, program.environment, variables={"v0": "x"})
    (task,) = session.apply(event, 1.0).ready
    assert session.apply(session.plan_get("v10000", None), 2.0).reprioritised == (task,)
    assert len(session.apply(TaskFailed(task.id, "no"), 3.0).calls_finished) == 10_000
    assert time.process_time() - start < 4.0  # well under one on an idle core
    error = views.error_of(session.variable("v10000"))
    assert error is not None
    assert error.cause[-1].variable == "v1"
    session.check_invariants()


def test_a_session_that_grows_at_its_front_call_by_call_stays_fast() -> None:
    session, environment = Program().session, Program().environment
    start = time.process_time()
    for i in reversed(range(2000)):
        calls = [wire.Call(prompt=f"{{{{input:v{i}}}}}: {{{{output:v{i + 1}}}}}")]
        session.apply(session.plan_submit(calls, environment), 0.0)
    assert time.process_time() - start < 3.0
    session.check_invariants()
