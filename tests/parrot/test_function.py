from __future__ import annotations

import pytest

import parrot as P
from parrot import wire
from tests.parrot.scripted_server import ScriptedServer


def test_the_papers_spelling_is_the_same_decorator() -> None:
    assert P.SemanticFunction is P.semantic_function


def test_a_function_keeps_its_name_and_its_docstring() -> None:
    @P.semantic_function
    def write(task: str) -> None:
        """{{input:task}}{{output:code}}"""

    assert write.__name__ == "write"
    assert write.__doc__ == "{{input:task}}{{output:code}}"


def test_a_docstring_must_fit_the_parameters() -> None:
    with pytest.raises(P.TemplateError, match=r"f: .*input:x.* is not a parameter"):

        @P.semantic_function
        def f() -> None:
            """{{input:x}}{{output:y}}"""

    with pytest.raises(P.TemplateError, match="parameter 'z'"):

        @P.semantic_function
        def g(x: str, z: str) -> None:
            """{{input:x}}{{output:y}}"""

    with pytest.raises(P.TemplateError, match=r"no \{\{output:name\}\}"):

        @P.semantic_function
        def h(x: str) -> None:
            """{{input:x}}"""

    with pytest.raises(P.TemplateError, match="no docstring"):

        @P.semantic_function
        def i(x: str) -> None:
            pass

    with pytest.raises(P.TemplateError, match="kwargs"):

        @P.semantic_function
        def j(**x: str) -> None:
            """{{input:x}}{{output:y}}"""


def test_settings_must_name_what_is_in_the_template() -> None:
    with pytest.raises(P.TemplateError, match="sampling for 'z'"):

        @P.semantic_function(sampling={"z": P.Sampling(seed=1)})
        def f() -> None:
            """{{output:y}}"""

    with pytest.raises(P.TemplateError, match="format for 'z'"):

        @P.semantic_function(formats={"z": {"type": "text"}})
        def h() -> None:
            """{{output:y}}"""

    with pytest.raises(P.TemplateError, match="transform for 'z'"):

        @P.semantic_function(transforms={"z": "strip"})
        def g() -> None:
            """{{output:y}}"""


@pytest.mark.usefixtures("session")
def test_settings_travel_with_every_call(server: ScriptedServer) -> None:
    @P.semantic_function(
        sampling={"y": P.Sampling(max_tokens=4, temperature=0)},
        formats={"z": {"type": "choice", "choices": ["a", "b"]}},
        transforms={"x": "strip", "y": "first_line"},
        model="small",
        criteria=P.THROUGHPUT,
        share="public",
    )
    def f(x: str, style: str = "plain") -> None:
        """{{input:x}} {{input:style}}: {{output:y}} {{output:z}}"""

    f("a").z.get()
    assert server.programs[0].calls == [
        wire.Call(
            prompt="{{input:x}} {{input:style}}: {{output:y}} {{output:z}}",
            placeholders=[
                wire.Placeholder(name="x", in_out="in", semantic_var_id="x.1", transforms="strip"),
                wire.Placeholder(name="style", in_out="in", semantic_var_id="style.1"),
                wire.Placeholder(
                    name="y",
                    in_out="out",
                    semantic_var_id="y.1",
                    transforms="first_line",
                    sampling=wire.Sampling(max_tokens=4, temperature=0),
                ),
                wire.Placeholder(
                    name="z",
                    in_out="out",
                    semantic_var_id="z.1",
                    format={"type": "choice", "choices": ["a", "b"]},
                ),
            ],
            model="small",
            criteria="throughput",
            share="public",
        )
    ]


@pytest.mark.usefixtures("session")
def test_one_sampling_is_for_all_outputs(server: ScriptedServer) -> None:
    P.call("{{output:y}} {{output:z}}", sampling=P.Sampling(seed=1)).y.get()
    assert [p.sampling for p in server.programs[0].calls[0].placeholders or []] == [wire.Sampling(seed=1)] * 2


@pytest.mark.usefixtures("session")
def test_chat_messages_may_hold_placeholders(server: ScriptedServer) -> None:
    messages = [
        {"role": "user", "content": "Say {{input:x}}."},
        {"role": "assistant", "content": "{{output:y}}"},
    ]
    assert P.call(messages, {"x": "hi"}).get() == "y.1<Say hi.>"
    assert server.programs[0].calls[0].messages == [wire.Message(**message) for message in messages]


@pytest.mark.usefixtures("session")
def test_a_call_needs_exactly_the_inputs_of_its_prompt() -> None:
    with pytest.raises(P.TemplateError, match="'x'"):
        P.call("{{input:x}}{{output:y}}")
    with pytest.raises(P.TemplateError, match="'z'"):
        P.call("{{output:y}}", {"z": "a"})


def test_a_variable_may_have_a_name_of_its_own_but_not_any() -> None:
    assert P.SemanticVariable("a", name="topic").name == "topic"
    for name in ("", "a b", "var_1", "x" * 101):
        with pytest.raises(ValueError, match="name"):
            P.SemanticVariable("a", name=name)


def test_a_constant_needs_no_server() -> None:
    assert P.SemanticVariable(3).get() == "3"
    assert list(P.SemanticVariable("abc").stream()) == ["abc"]


def test_a_variable_shows_what_is_known_of_it() -> None:
    assert repr(P.SemanticVariable("a" * 50, name="x")) == f"<SemanticVariable x: {'a' * 37 + '...'!r}>"
