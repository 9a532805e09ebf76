"""Functions as calls: a docstring becomes a prompt, arguments its inputs, and what is returned its outputs.

Responsible for: checking at decoration time that docstring and parameters fit, and turning one call of the
function into one node of the session. Nothing is sent from here.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Literal, overload

from parrot import wire
from parrot.conversation import Node
from parrot.errors import TemplateError
from parrot.session import NativeNode, Session, current_session
from parrot.template import Placeholders, clean, placeholders
from parrot.variable import SemanticVariable

Sampling = wire.Sampling | Mapping[str, wire.Sampling]
"""For all outputs, or each by its name."""
Formats = Mapping[str, Mapping[str, Any]]
"""What an output's text must be, by the output's name: `{"type": "json_schema", "schema": {...}}`."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and what goes with it on every call. Raises TemplateError for settings of names it has not."""

    content: str | tuple[wire.Message, ...]
    names: Placeholders
    sampling: Sampling | None
    formats: Formats
    transforms: Mapping[str, str]
    model: str | None
    criteria: wire.Criteria | None
    share: Literal["tenant", "public"] | None

    def __post_init__(self) -> None:
        if not self.names.outputs:
            raise TemplateError("the prompt has no {{output:name}}")
        sampled = self.sampling if isinstance(self.sampling, Mapping) else {}
        if unknown := sampled.keys() - set(self.names.outputs):
            raise TemplateError(f"sampling for {min(unknown)!r}, which is no output of the prompt")
        if unknown := self.formats.keys() - set(self.names.outputs):
            raise TemplateError(f"a format for {min(unknown)!r}, which is no output of the prompt")
        if unknown := self.transforms.keys() - {*self.names.inputs, *self.names.outputs}:
            raise TemplateError(f"a transform for {min(unknown)!r}, which is not in the prompt")

    def submit(self, arguments: Mapping[str, object]) -> tuple[SemanticVariable, ...]:
        """Collects one call; the outputs in the prompt's order."""
        given = {name: _as_variable(name, arguments[name]) for name in self.names.inputs}
        session = _session_of(given.values())
        inputs = {name: session.name_of(variable, name) for name, variable in given.items()}
        outputs = {name: session.new_output(name) for name in self.names.outputs}
        node = Node(
            call=self._call(inputs, {name: variable.bound_name for name, variable in outputs.items()}),
            inputs={inputs[name]: variable for name, variable in given.items()},
            outputs={variable.bound_name: variable for variable in outputs.values()},
        )
        session.collect(node)
        return tuple(outputs.values())

    def _call(self, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> wire.Call:
        bound = [
            wire.Placeholder(
                name=name, in_out="in", semantic_var_id=variable, transforms=self.transforms.get(name)
            )
            for name, variable in inputs.items()
        ]
        bound += [
            wire.Placeholder(
                name=name,
                in_out="out",
                semantic_var_id=variable,
                transforms=self.transforms.get(name),
                sampling=self.sampling.get(name) if isinstance(self.sampling, Mapping) else self.sampling,
                format=dict(self.formats[name]) if name in self.formats else None,
            )
            for name, variable in outputs.items()
        ]
        return wire.Call(
            prompt=self.content if isinstance(self.content, str) else None,
            messages=None if isinstance(self.content, str) else list(self.content),
            placeholders=bound,
            model=self.model,
            criteria=self.criteria,
            share=self.share,
        )


class SemanticFunction:
    """A function whose body is its docstring: calling it collects a call and returns its output variables.

    One output returns a SemanticVariable, several a named tuple in the template's order.
    """

    __name__: str

    def __init__(self, function: Callable[..., object], prompt: Prompt) -> None:
        functools.update_wrapper(self, function)
        self.prompt = prompt
        self._signature = inspect.signature(function)
        self._outputs = _tuple_type(f"{function.__name__}_outputs", prompt.names.outputs)
        self._check()

    def __call__(self, *args: object, **kwargs: object) -> Any:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        outputs = self.prompt.submit(bound.arguments)
        return outputs[0] if len(outputs) == 1 else self._outputs(*outputs)

    def _check(self) -> None:
        parameters = self._signature.parameters
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
            raise TemplateError("a semantic function takes no *args and no **kwargs")
        if missing := [name for name in self.prompt.names.inputs if name not in parameters]:
            raise TemplateError(f"{{{{input:{missing[0]}}}}} is not a parameter")
        if unused := [name for name in parameters if name not in self.prompt.names.inputs]:
            raise TemplateError(
                f"the parameter {unused[0]!r} is not in the docstring as {{{{input:{unused[0]}}}}}"
            )


class NativeFunction:
    """A Python function as a node of the program: it runs in this process once its inputs have values.

    Variables arrive as strings, other arguments as they are. What it returns becomes a variable's value, text
    as it is and anything else by `str()`; what it raises fails the variable. It runs on a thread of its own,
    in the caller's context, and a coroutine function on a loop of its own.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._signature = inspect.signature(function)

    def __call__(self, *args: object, **kwargs: object) -> SemanticVariable:
        bound = self._signature.bind(*args, **kwargs)
        inputs = tuple(
            value for value in (*bound.args, *bound.kwargs.values()) if isinstance(value, SemanticVariable)
        )
        session = _session_of(inputs)
        for variable in inputs:
            session.name_of(variable, "input")
        output = session.new_output(self._function.__name__.strip("<>"))

        def run(values: Mapping[SemanticVariable, str]) -> str:
            positional = [_value_of(argument, values) for argument in bound.args]
            return self._run(
                positional, {name: _value_of(value, values) for name, value in bound.kwargs.items()}
            )

        session.collect(NativeNode(run, inputs, output, copy_context()))
        return output

    def _run(self, args: Sequence[object], kwargs: Mapping[str, object]) -> str:
        result = self._function(*args, **kwargs)
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
        if result is None:
            raise TypeError(f"{self._function.__name__} returned nothing")
        return result if isinstance(result, str) else str(result)


@overload
def semantic_function(function: Callable[..., object], /) -> SemanticFunction: ...
@overload
def semantic_function(
    *,
    sampling: Sampling | None = None,
    formats: Formats | None = None,
    transforms: Mapping[str, str] | None = None,
    model: str | None = None,
    criteria: wire.Criteria | None = None,
    share: Literal["tenant", "public"] | None = None,
) -> Callable[[Callable[..., object]], SemanticFunction]: ...
def semantic_function(
    function: Callable[..., object] | None = None,
    /,
    *,
    sampling: Sampling | None = None,
    formats: Formats | None = None,
    transforms: Mapping[str, str] | None = None,
    model: str | None = None,
    criteria: wire.Criteria | None = None,
    share: Literal["tenant", "public"] | None = None,
) -> SemanticFunction | Callable[[Callable[..., object]], SemanticFunction]:
    """Makes a call out of a function's docstring; bare or with arguments.

    `sampling`: for all outputs, or a dict by output. `formats`: what an output's text must be, by output: a
    JSON schema, a regex, a choice. `transforms`: a pipeline by placeholder, as the server has them
    (`strip | first_line`). `criteria`: what its outputs are wanted for, whoever gets them. `share`: whose
    requests may share the constant beginning's KV. Raises TemplateError at decoration.
    """

    def decorate(function: Callable[..., object]) -> SemanticFunction:
        if not function.__doc__:
            raise TemplateError(
                f"{function.__name__} has no docstring to be its prompt (python -OO removes them)"
            )
        text = clean(function.__doc__)
        try:
            names = placeholders(text)
            return SemanticFunction(
                function,
                Prompt(text, names, sampling, formats or {}, transforms or {}, model, criteria, share),
            )
        except TemplateError as error:
            raise TemplateError(f"{function.__name__}: {error}") from None

    return decorate if function is None else decorate(function)


def native_function(function: Callable[..., object]) -> NativeFunction:
    """Makes a step of the program out of a function that runs in this process."""
    return NativeFunction(function)


def call(
    prompt: str | Sequence[Mapping[str, str]],
    inputs: Mapping[str, object] | None = None,
    /,
    *,
    sampling: Sampling | None = None,
    formats: Formats | None = None,
    transforms: Mapping[str, str] | None = None,
    model: str | None = None,
    criteria: wire.Criteria | None = None,
    share: Literal["tenant", "public"] | None = None,
) -> Any:
    """One call without a function: a prompt, or chat messages with placeholders in any content.

    Returns what a semantic function returns. Raises TemplateError when `inputs` are not those of the prompt.
    """
    if isinstance(prompt, str):
        content: str | tuple[wire.Message, ...] = prompt
        names = placeholders(prompt)
    else:
        content = tuple(wire.Message(**message) for message in prompt)
        names = placeholders(*(message["content"] for message in prompt))
    given = inputs or {}
    if different := given.keys() ^ set(names.inputs):
        raise TemplateError(f"the inputs and the prompt differ in {min(different)!r}")
    outputs = Prompt(
        content, names, sampling, formats or {}, transforms or {}, model, criteria, share
    ).submit(given)
    if len(outputs) == 1:
        return outputs[0]
    return _tuple_type("outputs", names.outputs)(*outputs)


def _tuple_type(name: str, fields: Sequence[str]) -> Callable[..., tuple[SemanticVariable, ...]]:
    """Placeholders may be Python's keywords, which a named tuple takes by position alone."""
    return namedtuple(name, fields, rename=True)


def _as_variable(name: str, argument: object) -> SemanticVariable:
    """A container of variables would become the text of their representations: refused."""
    if isinstance(argument, SemanticVariable):
        return argument
    if isinstance(argument, (tuple, list, set, dict)) and any(
        isinstance(x, SemanticVariable) for x in argument
    ):
        raise TypeError(f"{name!r} takes one variable or value, not a {type(argument).__name__} of variables")
    return SemanticVariable(argument)


def _session_of(variables: Any) -> Session:
    """The current session, unless an argument is still to come from another one."""
    for variable in variables:
        if variable.session is not None and not variable.done:
            return variable.session  # type: ignore[no-any-return]
    return current_session()


def _value_of(argument: object, values: Mapping[SemanticVariable, str]) -> object:
    return values[argument] if isinstance(argument, SemanticVariable) else argument
