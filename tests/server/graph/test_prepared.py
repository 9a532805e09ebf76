"""Transforms are applied once for an event, and can be applied ahead of it."""

from __future__ import annotations

import pytest

from parrot import wire
from server.graph import transform
from server.graph.call import Task
from server.graph.prepared import Pending, of_output, of_submit, of_value
from server.graph.transform import Pipeline, TransformError
from tests.server.session.programs import Program


def reader(number: int, transforms: str, *, more: str = "") -> wire.Call:
    name = f"o{number}"
    return wire.Call(
        prompt=f"{{{{input:x}}}}{more}{{{{output:{name}}}}}",
        placeholders=[wire.Placeholder(name="x", in_out="in", transforms=transforms)],
    )


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that pipelines were applied to."""
    texts: list[str] = []
    real = Pipeline.apply

    def apply(self: Pipeline, text: str) -> str:
        texts.append(text)
        return real(self, text)

    monkeypatch.setattr(transform.Pipeline, "apply", apply)
    return texts


def producer(program: Program) -> Task:
    task = program.session.variable("x").producer
    assert task is not None
    return task


def test_a_value_goes_through_the_same_pipeline_once_however_many_calls_read_it(applied: list[str]) -> None:
    program = Program()
    program.submit("{{output:x}}", *(reader(number, "strip | upper") for number in range(50)))
    effects = program.finish(producer(program), " text ", 1)
    assert len(effects.ready) == 50
    assert applied == [" text "]
    assert {task.call.filled["x"] for task in effects.ready} == {"TEXT"}


def test_what_was_prepared_is_not_applied_again(applied: list[str]) -> None:
    program = Program()
    program.submit(
        "{{output:x}}", reader(1, "upper"), reader(2, "lower"), reader(3, "upper", more="{{input:y}}")
    )
    found = of_output(producer(program), "Text")
    assert found == Pending("Text", None, ("upper", "lower"), ()), "the third waits for more"
    assert found.size == 8
    program.session.graph.transforms.know(found.apply())
    assert len(applied) == 2
    effects = program.finish(producer(program), "Text", 1)
    assert [task.call.filled["x"] for task in effects.ready] == ["TEXT", "text"]
    assert len(applied) == 2
    program.set("y", "!")
    assert len(applied) == 3, "and forgotten after the event"


def test_a_pipeline_of_the_output_comes_first_and_a_failure_is_told_as_ever() -> None:
    program = Program()
    out = wire.Call(
        prompt="{{output:x}}",
        placeholders=[wire.Placeholder(name="x", in_out="out", transforms="json_field('a')")],
    )
    program.submit(out, reader(1, "upper"))
    for text, value in (('{"a": "b"}', "B"), ("no", None)):
        applied = of_output(producer(program), text).apply()
        results = [result for result in applied.values() if isinstance(result, str)]
        assert results == (["b", "B"] if value else [])
        assert value or any(isinstance(result, TransformError) for result in applied.values())
    program.session.graph.transforms.know(of_output(producer(program), "no").apply())
    program.finish(producer(program), "no", 1)
    assert program.state("x") == program.state("o1") == "failed"


def test_a_client_s_value_is_prepared_for_all_who_wait_for_nothing_else(applied: list[str]) -> None:
    program = Program()
    program.submit(reader(1, "upper"), reader(2, "lower"), reader(3, "strip", more="{{input:y}}"))
    graph = program.session.graph
    found = of_value(program.session.variable("x"), "Text")
    assert found == Pending("Text", None, ("upper", "lower"), ())
    graph.transforms.know(found.apply())
    applied.clear()
    program.set("x", "Text")
    assert not applied


def test_a_submit_is_prepared_where_all_inputs_of_a_call_are_there(applied: list[str]) -> None:
    program = Program()
    program.set("x", "Text")
    event = program.plan(reader(1, "upper"), reader(2, "lower", more="{{input:y}}"))
    found = of_submit(event.calls, program.session.values_with(event))
    assert found.others == (("upper", "Text"),), "the second waits for more"
    program.session.graph.transforms.know(found.apply())
    applied.clear()
    program.apply(event)
    assert not applied
