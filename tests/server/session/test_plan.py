"""Submits: what binds to what, what is refused, and that nothing of a refused submit is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest

from engine.types import Objective, Urgency
from parrot.wire import Call, Criteria, Limits, Message, Placeholder, ProgramRequest, Sampling
from server.errors import ApiError, BadRequest, Conflict, NotFound, TooLarge
from server.session import export, views
from server.session.events import CallsSubmitted, SessionEvent
from server.session.limits import Limits as SessionLimits
from tests.server.session.programs import Program, outputs, prompt


def test_placeholders_bind_to_the_session_s_variable_of_the_same_name() -> None:
    program = Program()
    event = program.plan("{{input:a}} {{output:b}}", "{{input:b}} {{output:c}}")
    first, second = views.submit_answer(event).calls
    assert first.outputs["b"] == second.inputs["b"]
    program.apply(event)
    assert program.session.variable("b").id == first.outputs["b"]


def test_one_template_is_bound_many_ways_by_name_and_by_id() -> None:
    program = Program()
    template = "Sum {{input:text}}: {{output:sum}}"
    program.set("doc.1", "one")
    id = program.session.variable("doc.1").id
    for number, ref in enumerate(("doc.1", id, "doc.2")):
        program.submit(
            Call(
                prompt=template,
                placeholders=[
                    Placeholder(name="sum", in_out=True, semantic_var_id=f"sum.{number}"),
                    Placeholder(name="text", in_out=False, semantic_var_id=ref),
                ],
            )
        )
    graph = program.session.graph
    assert [len(graph.variables[i].consumers) for i in (id, graph.names["doc.2"])] == [2, 1]
    assert program.session.variable("sum.2").producer is not None


def test_a_value_given_in_place_is_a_variable_of_its_own() -> None:
    program = Program()
    calls = [
        Call(prompt="{{input:x}}{{output:y}}", placeholders=[Placeholder(name="x", value=value), output])
        for value, output in (
            ("1", Placeholder(name="y", semantic_var_id="y1")),
            ("2", Placeholder(name="y", semantic_var_id="y2")),
        )
    ]
    effects = program.submit(*calls)
    assert [prompt(task) for task in effects.ready] == ["1", "2"]
    assert "x" not in program.session.graph.names
    (info, *_) = views.variable_infos(program.session)
    assert info.name == info.id


def test_defaults_are_five_hundred_and_twelve_tokens_and_a_drawn_seed() -> None:
    (task,) = Program().submit("{{output:a}}").ready
    assert (task.params.sampling.max_tokens, task.params.sampling.seed) == (512, 7)
    assert task.params.sampling.eos_token_ids == (2,)


def test_warnings_tell_of_text_after_an_output_without_a_stop() -> None:
    program = Program()
    stop = Sampling(stop=["\n"])
    event = program.plan(
        "{{output:a}} more",
        Call(prompt="{{output:b}} more {{output:c}}", placeholders=[Placeholder(name="b", sampling=stop)]),
        Call(
            messages=[Message(role="user", content="Hi"), Message(role="assistant", content="{{output:d}}")]
        ),
    )
    first, second, third = views.submit_answer(event).calls
    assert len(first.warnings) == 1
    assert "'a'" in first.warnings[0]
    assert second.warnings == []
    assert third.warnings == []


def test_messages_are_rendered_with_the_chat_template() -> None:
    program = Program()
    program.set("q", "why?")
    (task,) = program.submit(
        Call(
            messages=[
                Message(role="user", content="{{input:q}}"),
                Message(role="assistant", content="{{output:a}}"),
            ]
        )
    ).ready
    assert prompt(task) == "<user>why?</><assistant>"
    assert task.call.spec.chat


def test_a_criterion_of_a_call_is_that_of_its_outputs() -> None:
    program = Program()
    (first,) = program.submit(
        "{{output:a}}", Call(prompt="{{input:a}}{{output:b}}", criteria=Limits(tpot_ms=50, ttft_ms=200))
    ).ready
    assert first.objective == Objective(Urgency.LATENCY, 50, 200)


def test_a_program_without_get_asks_for_what_nothing_consumes() -> None:
    program = Program()
    request = ProgramRequest(
        variables={"x": "1"},
        calls=[
            Call(prompt="{{input:x}}{{output:a}}{{output:b}}"),
            Call(prompt="{{input:a}}{{output:c}}"),
        ],
    )
    event = program.session.plan_program(request, program.environment)
    assert [asked.name for asked in event.asked] == ["b", "c"]
    effects = program.apply(event)
    assert effects.reprioritised == ()
    assert outputs(effects.ready) == ["a"]
    assert effects.ready[0].objective.urgency is Urgency.LATENCY


@pytest.mark.parametrize(
    ("get", "expected"),
    [
        (["a"], [("a", Urgency.LATENCY)]),
        ({"a": "throughput", "b": None}, [("a", Urgency.THROUGHPUT), ("b", Urgency.LATENCY)]),
        ({"b": Limits(deadline_ms=5000)}, [("b", Urgency.LATENCY)]),
    ],
)
def test_a_program_s_get_is_a_list_or_names_criteria(
    get: dict[str, Criteria | None] | list[str], expected: list[tuple[str, Urgency]]
) -> None:
    program = Program()
    request = ProgramRequest(calls=[Call(prompt="{{output:a}}{{output:b}}")], get=get)
    event = program.session.plan_program(request, program.environment)
    assert [(asked.name, asked.objective.urgency) for asked in event.asked] == expected


def test_an_event_survives_a_journal() -> None:
    program = Program()
    program.submit("{{input:a}}{{output:b}}")
    sampling = Sampling(logit_bias={"3": 1.0}, stop=["x"])
    event = program.plan(
        Call(prompt="{{input:b}}{{output:c}}", placeholders=[Placeholder(name="c", sampling=sampling)]),
        "{{output:a}}",
        get={"c": "tpot_ms:10"},
    )
    assert event.moved == () or event.moved
    for codec in (msgspec.msgpack, msgspec.json):
        assert codec.decode(codec.encode(event), type=SessionEvent) == event


IN, OUT = Placeholder(name="x"), Placeholder(name="y")
XY = "{{input:x}}{{output:y}}"


@pytest.mark.parametrize(
    ("calls", "param"),
    [
        ([], "calls"),
        ([Call()], "calls[0].prompt"),
        ([Call(prompt="a", messages=[])], "calls[0].prompt"),
        ([Call(messages=[])], "calls[0].messages"),
        ([Call(prompt="no output")], "calls[0].prompt"),
        ([Call(prompt="{{output:a}}"), Call(prompt="{{foo:a}}")], "calls[1].prompt"),
        ([Call(prompt="{{output:a}}{{output:a}}")], "calls[0].prompt"),
        ([Call(prompt="{{input:a}}{{output:a}}")], "calls[0].prompt"),
        ([Call(prompt=XY, model="other")], "calls[0].model"),
        ([Call(prompt=XY, share="public")], "calls[0].share"),
        ([Call(prompt=XY, criteria="soon")], "calls[0].criteria"),
        ([Call(prompt=XY, criteria="tpot_ms:-1")], "calls[0].criteria"),
        ([Call(prompt=XY, criteria=Limits())], "calls[0].criteria"),
        ([Call(prompt=XY, placeholders=[IN, IN])], "calls[0].placeholders[1].name"),
        ([Call(prompt=XY, placeholders=[IN, Placeholder(name="z")])], "calls[0].placeholders[1].name"),
        (
            [Call(prompt=XY, placeholders=[Placeholder(name="x", in_out="out")])],
            "calls[0].placeholders[0].in_out",
        ),
        (
            [Call(prompt=XY, placeholders=[Placeholder(name="y", in_out=False)])],
            "calls[0].placeholders[0].in_out",
        ),
        (
            [Call(prompt=XY, placeholders=[Placeholder(name="y", value="v")])],
            "calls[0].placeholders[0].value",
        ),
        (
            [Call(prompt=XY, placeholders=[Placeholder(name="x", value="v", semantic_var_id="x")])],
            "calls[0].placeholders[0].value",
        ),
        (
            [Call(prompt=XY, placeholders=[IN, Placeholder(name="y", transforms="strip | nope")])],
            "calls[0].placeholders[1].transforms",
        ),
        (
            [Call(prompt=XY, placeholders=[Placeholder(name="y", format={"type": "regex"})])],
            "calls[0].placeholders[0].format.regex",
        ),
        (
            [Call(prompt=XY, placeholders=[Placeholder(name="x", sampling=Sampling())])],
            "calls[0].placeholders[0].sampling",
        ),
        (
            [Call(prompt=XY, placeholders=[Placeholder(name="y", sampling=Sampling(n=2))])],
            "calls[0].placeholders[0].sampling.n",
        ),
        (
            [Call(prompt=XY, placeholders=[Placeholder(name="y", sampling=Sampling(top_p=2))])],
            "calls[0].placeholders[0].sampling.top_p",
        ),
        (
            [Call(prompt=XY, placeholders=[Placeholder(name="x", semantic_var_id="a b")])],
            "calls[0].placeholders[0].semantic_var_id",
        ),
    ],
)
def test_a_bad_call_is_refused_and_the_field_named(calls: list[Call], param: str) -> None:
    program = Program()
    before = export.graph(program.session, "json")
    with pytest.raises(ApiError) as error:
        program.plan(*calls)
    assert error.value.info.param == param
    assert error.value.status in (400, 404)
    assert export.graph(program.session, "json") == before


def test_an_id_that_the_session_does_not_have_is_not_found() -> None:
    call = Call(prompt=XY, placeholders=[Placeholder(name="x", semantic_var_id="var_none")])
    with pytest.raises(NotFound) as error:
        Program().plan(call)
    assert error.value.info.param == "calls[0].placeholders[0].semantic_var_id"


def test_asking_for_what_nothing_mentions_refuses_the_submit() -> None:
    with pytest.raises(NotFound) as error:
        Program().plan("{{output:a}}", get=["b"])
    assert error.value.info.param == "get.b"


@pytest.mark.parametrize(
    ("before", "calls", "code"),
    [
        ([], ["{{input:a}}{{output:b}}", "{{input:b}}{{output:a}}"], "cycle"),
        (["{{input:a}}{{output:b}}"], ["{{input:b}}{{output:a}}"], "cycle"),
        (
            ["{{input:a}}{{output:b}}", "{{input:c}}{{output:d}}"],
            ["{{input:b}}{{output:c}}{{input:d}}{{output:a}}"],
            "cycle",
        ),
        ([], ["{{output:x}}", "{{output:x}}"], "already_produced"),
        (["{{output:x}}"], ["{{output:x}}"], "already_produced"),
        ([], ["{{input:t}}{{output:y}}", "{{output:t}}"], "already_assigned"),
    ],
)
def test_cycles_and_second_assignments_are_conflicts_and_nothing_is_kept(
    before: Sequence[str], calls: Sequence[str], code: str
) -> None:
    program = Program()
    for call in before:
        program.submit(call)
    state = export.graph(program.session, "json")
    with pytest.raises(Conflict) as error:
        program.plan(*calls, variables={"t": "given"})
    assert error.value.info.code == code
    assert (error.value.info.param or "").startswith("calls[")
    assert export.graph(program.session, "json") == state


def test_an_output_bound_to_its_own_input_is_a_cycle() -> None:
    call = Call(prompt=XY, placeholders=[Placeholder(name="y", semantic_var_id="x")])
    with pytest.raises(Conflict, match="cycle"):
        Program().plan(call)


def test_finding_a_cycle_among_many_calls_takes_moments() -> None:
    chain = [f"{{{{input:v{i}}}}}{{{{output:v{i + 1}}}}}" for i in range(1, 5000)]
    with pytest.raises(Conflict, match="cycle"):
        Program().plan("{{input:z}}{{input:v1}}{{output:w}}", "{{input:w}}{{output:v1}}", *chain)


def test_variables_of_a_submit_follow_the_rules_of_setting_them() -> None:
    program = Program()
    program.set("x", "1")
    assert outputs(program.submit(XY, variables={"x": "1"}).ready) == ["y"]
    with pytest.raises(Conflict) as error:
        program.plan("{{output:z}}", variables={"x": "2"})
    assert error.value.info.param == "variables.x"
    program.submit("{{input:late}}{{output:w}}")
    assert sorted(outputs(program.submit("{{output:v}}", variables={"late": "now"}).ready)) == ["v", "w"]


@pytest.mark.parametrize(
    ("limits", "calls", "status"),
    [
        (SessionLimits(calls=1), ["{{output:a}}", "{{output:b}}"], 413),
        (SessionLimits(variables=1), ["{{output:a}}{{output:b}}"], 413),
        (SessionLimits(size=10), ["a long text{{output:a}}"], 413),
        (SessionLimits(segments=3), ["{{output:a}} {{output:b}} "], 400),
        (SessionLimits(outputs=1), ["{{output:a}}{{output:b}}"], 400),
        (SessionLimits(fan_out=1), ["{{input:x}}{{output:a}}", "{{input:x}}{{output:b}}"], 400),
    ],
)
def test_limits_are_clear_errors(limits: SessionLimits, calls: Sequence[str], status: int) -> None:
    with pytest.raises(ApiError, match="at most") as error:
        Program(limits=limits).plan(*calls)
    assert error.value.status == status


def test_a_value_has_a_greatest_size() -> None:
    program = Program(limits=SessionLimits(value=3))
    with pytest.raises(TooLarge) as error:
        program.plan(Call(prompt=XY, placeholders=[Placeholder(name="x", value="long")]))
    assert error.value.info.param == "calls[0].placeholders[0].value"
    with pytest.raises(TooLarge) as error:
        program.plan(XY, variables={"x": "long"})
    assert error.value.info.param == "variables.x"


def test_public_sharing_is_for_servers_that_allow_it() -> None:
    event = Program(allow_public=True).plan(Call(prompt=XY, share="public"))
    assert isinstance(event, CallsSubmitted)
    assert event.calls[0].share == "public"


def test_one_submit_has_so_many_template_segments() -> None:
    wide = "".join(f"{{{{input:x{n}}}}} " for n in range(2000))
    start = time.process_time()
    with pytest.raises(BadRequest, match="at most 100000 template segments") as error:
        Program().plan(*[f"{wide}{{{{output:y{n}}}}}" for n in range(400)])
    assert time.process_time() - start < 2.0
    assert error.value.info.param == "calls[24].prompt"


def test_one_submit_has_so_many_different_transforms() -> None:
    def calls(transforms: Sequence[str]) -> list[Call]:
        return [
            Call(
                prompt=f"{{{{input:x}}}}{{{{output:y{n}}}}}",
                placeholders=[Placeholder(name="x", transforms=transform)],
            )
            for n, transform in enumerate(transforms)
        ]

    program = Program()
    program.plan(*calls(["regex('(0,|,){800}')"] * 100))
    start = time.process_time()
    with pytest.raises(BadRequest, match="at most so many different transforms") as error:
        program.plan(*calls([f"regex('(0,|,){{800}}x{n}')" for n in range(100)]))
    assert time.process_time() - start < 2.0
    assert error.value.info.param == "calls[24].placeholders[0].transforms"


def test_outputs_with_the_same_sampling_have_seeds_of_their_own() -> None:
    program = Program()
    seeds = iter(range(10))
    program.environment = replace(program.environment, draw_seed=lambda: next(seeds))
    given = Placeholder(name="d", sampling=Sampling(seed=77))
    event = program.plan(
        "{{output:a}}", "{{output:b}}{{output:c}}", Call(prompt="{{output:d}}", placeholders=[given])
    )
    sampled = [output.params.sampling for call in event.calls for output in call.outputs]
    assert [params.seed for params in sampled] == [0, 1, 2, 77]
    assert {params.max_tokens for params in sampled} == {512}
