"""From a submit's wire shapes to one valid event: everything is checked here, and nothing is changed.

Responsible for: what a placeholder binds to (semantic_api.md), defaults, limits, and errors that name the
field. A `Draft` collects what the submit would add, so that calls of one submit can refer to each other in
any order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from engine.types import Objective
from parrot import wire
from server import sampling, structured
from server.errors import ApiError, BadRequest, Conflict, NotFound, TooLarge
from server.generation import GenerationParams
from server.graph import objective, order, template, transform
from server.graph.call import CallSpec, InputSpec, OutputSpec, VariableSpec
from server.graph.dag import ID_PREFIX, CallGraph
from server.graph.render import RenderChat, Template, from_messages, from_prompt
from server.graph.variable import SemanticVariable
from server.sampling import SamplingModel
from server.session.events import Asked, CallsSubmitted
from server.session.limits import Limits

DEFAULT_MAX_TOKENS = 512
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_NO_SAMPLING = wire.Sampling()

Wanted = Mapping[str, wire.Criteria | None] | Sequence[str]


@dataclass(frozen=True, slots=True)
class Environment:
    """What planning needs from outside. `new_id("var")` is an unguessable id that begins with `var_`.

    `check_model(name, param)` raises ModelNotFound; `render_chat` is the chat template without generation
    prompt.
    """

    new_id: Callable[[str], str]
    draw_seed: Callable[[], int]
    render_chat: RenderChat
    check_model: Callable[[str | None, str], None]
    sampling: SamplingModel
    allow_public: bool = False


def check_name(name: str, param: str) -> None:
    """Raises BadRequest for what cannot name a variable."""
    if not _NAME.fullmatch(name) or name.startswith(ID_PREFIX):
        raise BadRequest(
            f"{name[:140]!r} cannot name a variable: 1 to 128 of A-Z a-z 0-9 _ . -, and not var_ in front.",
            param=param,
        )


def check_size(value: str, limits: Limits, param: str) -> None:
    """Raises TooLarge."""
    if len(value) > limits.value:
        raise TooLarge(f"A value may have at most {limits.value} characters.", param=param)


@dataclass(slots=True)
class Draft:
    """A submit while it is being checked. Owns what it would add; all its methods raise ApiError."""

    graph: CallGraph
    limits: Limits
    environment: Environment
    variables: dict[str, VariableSpec] = field(default_factory=dict)
    values: dict[str, VariableSpec] = field(default_factory=dict)
    calls: list[CallSpec] = field(default_factory=list)
    _names: dict[str, str] = field(default_factory=dict)
    _produced: set[str] = field(default_factory=set)
    _reads: dict[str, int] = field(default_factory=dict)
    _templates: dict[str, Template] = field(default_factory=dict)
    _pipelines: dict[str, int] = field(default_factory=dict)
    _transforms: int = 0
    _sampled: tuple[wire.Sampling, GenerationParams] | None = None
    _segments: int = 0

    def give(self, name: str, value: str, param: str) -> None:
        """A variable's value that comes with the submit."""
        check_name(name, param)
        check_size(value, self.limits, param)
        existing = self.graph.find(name)
        if existing is None:
            self._new_variable(name, value)
        elif check_assignable(existing, value, param):
            self.values[existing.id] = VariableSpec(existing.id, value=value)

    def submit(self, calls: Sequence[wire.Call], model: str | None) -> None:
        if not calls:
            raise BadRequest("A submit needs at least one call.", param="calls")
        if len(self.graph.calls) + len(calls) > self.limits.calls:
            raise TooLarge(f"A session may have at most {self.limits.calls} calls.", param="calls")
        for index, call in enumerate(calls):
            self._call(call, f"calls[{index}]", model)

    def event(self, wanted: Iterable[Asked]) -> CallsSubmitted:
        """What was collected, when it fits the session and makes no cycle."""
        if len(self.graph.variables) + len(self.variables) > self.limits.variables:
            raise TooLarge(f"A session may have at most {self.limits.variables} variables.", param="calls")
        specs = (*self.variables.values(), *self.values.values())
        size = sum(call.size for call in self.calls) + sum(len(spec.value or "") for spec in specs)
        if self.graph.size + size > self.limits.size:
            raise TooLarge(f"A session may hold at most {self.limits.size} characters.", param="calls")
        orders = order.place(self.calls, self.graph.variables)
        return CallsSubmitted(
            variables=tuple(self.variables.values()),
            values=tuple(self.values.values()),
            calls=tuple(self.calls),
            orders=orders.new,
            moved=orders.moved,
            asked=tuple(wanted),
        )

    def ask(self, wanted: Wanted, param: str) -> list[Asked]:
        criteria = wanted if isinstance(wanted, Mapping) else dict.fromkeys(wanted)
        return [
            Asked(
                self._existing(name, f"{param}.{name}"), name, objective.parse(value, param=f"{param}.{name}")
            )
            for name, value in criteria.items()
        ]

    def ask_for_the_rest(self) -> list[Asked]:
        """Every output of the submit that nothing consumes."""
        names = {id: name for name, id in self._names.items()}
        found: list[Asked] = []
        for output in (output for call in self.calls for output in call.outputs):
            known = self.graph.variables.get(output.variable)
            if output.variable not in self._reads and not (known and known.consumers):
                name = known.name if known else names.get(output.variable, output.variable)
                found.append(Asked(output.variable, name, objective.LATENCY))
        return found

    def _call(self, call: wire.Call, at: str, model: str | None) -> None:
        environment = self.environment
        environment.check_model(call.model or model, f"{at}.model")
        if call.share == "public" and not environment.allow_public:
            raise BadRequest("The server was started without --allow-public-prefixes.", param=f"{at}.share")
        found = self._template(call, at)
        source = f"{at}.{'messages' if found.chat else 'prompt'}"
        self._segments += len(found.segments)
        if self._segments > self.limits.submit_segments:
            raise _too_much(f"{self.limits.submit_segments} template segments", source)
        inputs, outputs = template.names(found.segments, source)
        if len(outputs) > self.limits.outputs:
            raise BadRequest(f"A call may have at most {self.limits.outputs} outputs.", param=source)
        given = self._placeholders(call, inputs, outputs, at) if call.placeholders else {}
        bound = [self._input(name, *given.get(name, (None, source))) for name in inputs]
        produced = [self._output(name, *given.get(name, (None, source))) for name in outputs]
        self._count_reads(bound, source)
        self.calls.append(
            CallSpec(
                id=environment.new_id("call"),
                segments=found.segments,
                inputs=tuple(bound),
                outputs=tuple(produced),
                chat=found.chat,
                model=call.model or model,
                share=call.share or "tenant",
                objective=self._objective(call.criteria, f"{at}.criteria"),
                warnings=tuple(_warnings(found, produced)),
            )
        )

    def _objective(self, criteria: wire.Criteria | None, param: str) -> Objective | None:
        return None if criteria is None else objective.parse(criteria, param=param)

    def _template(self, call: wire.Call, at: str) -> Template:
        if (call.prompt is None) == (call.messages is None):
            raise BadRequest("Give a call either prompt or messages.", param=f"{at}.prompt")
        segments = self.limits.segments
        if call.messages is not None:
            render = self.environment.render_chat
            return from_messages(call.messages, render, param=f"{at}.messages", max_segments=segments)
        prompt = call.prompt or ""
        known = self._templates.get(prompt)
        if known is None:
            known = self._templates[prompt] = from_prompt(prompt, param=f"{at}.prompt", max_segments=segments)
        return known

    def _placeholders(
        self, call: wire.Call, inputs: Collection[str], outputs: Collection[str], at: str
    ) -> dict[str, tuple[wire.Placeholder, str]]:
        """By name, each with the field that it came in."""
        found: dict[str, tuple[wire.Placeholder, str]] = {}
        for index, placeholder in enumerate(call.placeholders or ()):
            field = f"{at}.placeholders[{index}]"
            name = placeholder.name
            if name in found:
                raise BadRequest(f"The placeholder {name[:70]!r} is given twice.", param=f"{field}.name")
            if name not in inputs and name not in outputs:
                raise BadRequest(f"The template has no placeholder {name[:70]!r}.", param=f"{field}.name")
            if placeholder.in_out is not None and (placeholder.in_out in ("out", True)) != (name in outputs):
                kind = "an output" if name in outputs else "an input"
                raise BadRequest(f"{name!r} is {kind} in the template.", param=f"{field}.in_out")
            if placeholder.transforms:
                self._check_transforms(placeholder.transforms, f"{field}.transforms")
            found[name] = placeholder, field
        return found

    def _input(self, name: str, placeholder: wire.Placeholder | None, field: str) -> InputSpec:
        if placeholder is None:
            return InputSpec(name, self._bind(name, field))
        for unfit in ("sampling", "format"):
            if getattr(placeholder, unfit) is not None:
                raise BadRequest(f"{name!r} is an input: {unfit} is for outputs.", param=f"{field}.{unfit}")
        return InputSpec(name, self._source(placeholder, field), placeholder.transforms or None)

    def _source(self, placeholder: wire.Placeholder, field: str) -> str:
        """A value given in place makes a variable of its own, so that a template can be filled many times."""
        if placeholder.value is None:
            return self._bind(placeholder.semantic_var_id or placeholder.name, f"{field}.semantic_var_id")
        if placeholder.semantic_var_id is not None:
            raise BadRequest("Give either value or semantic_var_id.", param=f"{field}.value")
        check_size(placeholder.value, self.limits, f"{field}.value")
        return self._new_variable(None, placeholder.value)

    def _output(self, name: str, placeholder: wire.Placeholder | None, field: str) -> OutputSpec:
        if placeholder is None:
            return OutputSpec(name, self._bind_output(name, field), self._params(_NO_SAMPLING, field))
        if placeholder.value is not None:
            raise BadRequest(f"{name!r} is an output: value is for inputs.", param=f"{field}.value")
        variable = self._bind_output(placeholder.semantic_var_id or name, f"{field}.semantic_var_id")
        params = self._params(placeholder.sampling or _NO_SAMPLING, f"{field}.sampling")
        if placeholder.format is not None:
            grammar = structured.of_format(placeholder.format, f"{field}.format")
            params = structured.constrained(params, grammar, f"{field}.sampling.")
        return OutputSpec(name, variable, params, placeholder.transforms or None)

    def _params(self, fields: wire.Sampling, param: str) -> GenerationParams:
        if fields.n is not None and fields.n != 1:
            raise BadRequest("An output is generated once: n must be 1.", param=f"{param}.n")
        if self._sampled is not None and self._sampled[0] == fields:
            return self._with_new_seed(self._sampled[1])
        environment = self.environment
        params = sampling.validate(
            fields,
            environment.sampling,
            max_tokens=DEFAULT_MAX_TOKENS,
            draw_seed=environment.draw_seed,
            param=f"{param}.",
        )
        params = replace(params, fit=fields.max_tokens is None, seeded=fields.seed is not None)
        self._sampled = fields, params
        return params

    def _with_new_seed(self, params: GenerationParams) -> GenerationParams:
        """As if the same fields were validated once more."""
        if params.seeded:
            return params
        seed = self.environment.draw_seed()
        return replace(params, sampling=msgspec.structs.replace(params.sampling, seed=seed))

    def _check_transforms(self, source: str, param: str) -> None:
        if source in self._pipelines:
            return
        try:
            self._pipelines[source] = transform.parse(source, param=param).size
        except ApiError:
            raise
        except Exception as error:  # a library's parser that fails in a way of its own
            raise BadRequest(f"The transforms cannot be read: {error}.", param=param) from error
        self._transforms += self._pipelines[source]
        if self._transforms > self.limits.submit_transforms:
            raise _too_much("so many different transforms", param)

    def _bind(self, ref: str, param: str) -> str:
        """The id of the variable that `ref` means; a name that is new makes one."""
        if (id := self._names.get(ref)) is not None:
            return id
        if (known := self.graph.find(ref)) is not None:
            return known.id
        if ref.startswith(ID_PREFIX):
            raise NotFound(f"The session has no variable {ref[:140]!r}.", param=param)
        check_name(ref, param)
        return self._new_variable(ref, None)

    def _bind_output(self, ref: str, param: str) -> str:
        id = self._bind(ref, param)
        known = self.graph.variables.get(id)
        if id in self._produced or (known is not None and known.producer is not None):
            raise Conflict(
                f"The variable {ref!r} is produced by another call.", param=param, code="already_produced"
            )
        given = self.values.get(id) or self.variables.get(id)
        if (known is not None and known.ended) or (given is not None and given.value is not None):
            raise Conflict(f"The variable {ref!r} has a value already.", param=param, code="already_assigned")
        self._produced.add(id)
        return id

    def _existing(self, ref: str, param: str) -> str:
        known = self.graph.find(ref)
        id = self._names.get(ref) if known is None else known.id
        if id is None:
            raise NotFound(f"Nothing mentions a variable {ref[:140]!r}.", param=param)
        return id

    def _new_variable(self, name: str | None, value: str | None) -> str:
        id = self.environment.new_id("var")
        self.variables[id] = VariableSpec(id, name, value)
        if name is not None:
            self._names[name] = id
        return id

    def _count_reads(self, bound: Iterable[InputSpec], param: str) -> None:
        for id in {item.variable for item in bound}:
            known = self.graph.variables.get(id)
            self._reads[id] = self._reads.get(id, 0) + 1
            if self._reads[id] + (len(known.consumers) if known else 0) > self.limits.fan_out:
                raise BadRequest(
                    f"A variable may be read by at most {self.limits.fan_out} calls.",
                    param=param,
                    code="limit_exceeded",
                )


def check_assignable(variable: SemanticVariable, value: str, param: str) -> bool:
    """Whether `value` still has to be set; false when it is there already. Raises Conflict."""
    if variable.producer is not None:
        call = variable.producer.call.id
        raise Conflict(
            f"The variable {variable.name!r} is produced by {call}.", param=param, code="already_produced"
        )
    if variable.value == value:
        return False
    if variable.ended:
        raise Conflict(
            f"The variable {variable.name!r} has another value.", param=param, code="already_assigned"
        )
    return True


def _too_much(what: str, param: str) -> BadRequest:
    return BadRequest(f"One submit may have at most {what}.", param=param, code="limit_exceeded")


def _warnings(found: Template, outputs: Iterable[OutputSpec]) -> Iterable[str]:
    for output in outputs:
        sampled = output.params.sampling
        if output.name in found.followed and not output.params.stop and not sampled.stop_token_ids:
            yield (
                f"Text follows the output {output.name!r}, which has no stop: it ends when the model ends it "
                f"or {sampled.max_tokens} tokens are there."
            )
