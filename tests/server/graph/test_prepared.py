"""Transforms are applied once for an event, and can be applied ahead of it."""

from __future__ import annotations

import pytest

from parrot import wire
from server.graph import transform
from server.graph.call import Task
from server.graph.prepared import Pending, pending
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
    found = pending(producer(program), "Text")
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
        applied = pending(producer(program), text).apply()
        results = [result for result in applied.values() if isinstance(result, str)]
        assert results == (["b", "B"] if value else [])
        assert value or any(isinstance(result, TransformError) for result in applied.values())
    program.session.graph.transforms.know(pending(producer(program), "no").apply())
    program.finish(producer(program), "no", 1)
    assert program.state("x") == program.state("o1") == "failed"
