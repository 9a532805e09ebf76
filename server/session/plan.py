"""From a submit's wire shapes to one valid event: everything is checked here, and nothing is changed.

Responsible for: what a placeholder is (semantic_api.md), defaults, limits, and errors that name the field. A
`Draft` collects what the submit would add, so that calls of one submit can refer to each other in any order. Leaves
to others: which variable a placeholder is bound to (`session.bindings`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from engine.types import Objective
from parrot import wire
from server import sampling, structured
from server.errors import ApiError, BadRequest, TooLarge
from server.generation import GenerationParams
from server.graph import objective, order, template, transform
from server.graph.call import CallSpec, InputSpec, OutputSpec
from server.graph.dag import CallGraph
from server.graph.render import RenderChat, Template, from_messages, from_prompt
from server.sampling import SamplingModel
from server.session.bindings import Bindings, check_size
from server.session.events import Asked, CallsSubmitted
from server.session.limits import Limits

DEFAULT_MAX_TOKENS = 512
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


@dataclass(slots=True)
class Draft:
    """A submit while it is being checked. Owns what it would add; all its methods raise ApiError."""

    graph: CallGraph
    limits: Limits
    environment: Environment
    bindings: Bindings
    calls: list[CallSpec] = field(default_factory=list)
    _templates: dict[str, Template] = field(default_factory=dict)
    _pipelines: dict[str, int] = field(default_factory=dict)
    _transforms: int = 0
    _sampled: tuple[wire.Sampling, GenerationParams] | None = None
    _segments: int = 0

    def submit(self, calls: Sequence[wire.Call], model: str | None) -> None:
        if not calls:
            raise BadRequest("A submit needs at least one call.", param="calls")
        if len(self.graph.calls) + len(calls) > self.limits.calls:
            raise TooLarge(f"A session may have at most {self.limits.calls} calls.", param="calls")
        for index, call in enumerate(calls):
            self._call(call, f"calls[{index}]", model)

    def event(self, wanted: Iterable[Asked]) -> CallsSubmitted:
        """What was collected, when it fits the session and makes no cycle."""
        if len(self.graph.variables) + len(self.bindings.variables) > self.limits.variables:
            raise TooLarge(f"A session may have at most {self.limits.variables} variables.", param="calls")
        specs = (*self.bindings.variables.values(), *self.bindings.values.values())
        size = sum(call.size for call in self.calls) + sum(len(spec.value or "") for spec in specs)
        if self.graph.size + size > self.limits.size:
            raise TooLarge(f"A session may hold at most {self.limits.size} characters.", param="calls")
        orders = order.place(self.calls, self.graph.variables)
        return CallsSubmitted(
            variables=tuple(self.bindings.variables.values()),
            values=tuple(self.bindings.values.values()),
            calls=tuple(self.calls),
            orders=orders.new,
            moved=orders.moved,
            asked=tuple(wanted),
        )

    def ask(self, wanted: Wanted, param: str) -> list[Asked]:
        criteria = wanted if isinstance(wanted, Mapping) else dict.fromkeys(wanted)
        asked: list[Asked] = []
        for name, value in criteria.items():
            at = f"{param}.{name}"
            asked.append(Asked(self.bindings.existing(name, at), name, objective.parse(value, param=at)))
        return asked

    def ask_for_the_rest(self) -> list[Asked]:
        """Every output of the submit that nothing consumes."""
        names = {id: name for name, id in self.bindings.names.items()}
        found: list[Asked] = []
        for output in (output for call in self.calls for output in call.outputs):
            if not self.bindings.is_read(output.variable):
                known = self.graph.variables.get(output.variable)
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
        self.bindings.count_reads(bound, source)
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
            return InputSpec(name, self.bindings.bind(name, field))
        for unfit in ("sampling", "format"):
            if getattr(placeholder, unfit) is not None:
                raise BadRequest(f"{name!r} is an input: {unfit} is for outputs.", param=f"{field}.{unfit}")
        return InputSpec(name, self._source(placeholder, field), placeholder.transforms or None)

    def _source(self, placeholder: wire.Placeholder, field: str) -> str:
        """A value given in place makes a variable of its own, so that a template can be filled many times."""
        if placeholder.value is None:
            return self.bindings.bind(
                placeholder.semantic_var_id or placeholder.name, f"{field}.semantic_var_id"
            )
        if placeholder.semantic_var_id is not None:
            raise BadRequest("Give either value or semantic_var_id.", param=f"{field}.value")
        check_size(placeholder.value, self.limits, f"{field}.value")
        return self.bindings.new(None, placeholder.value)

    def _output(self, name: str, placeholder: wire.Placeholder | None, field: str) -> OutputSpec:
        if placeholder is None:
            return OutputSpec(name, self.bindings.bind_output(name, field), self._params(_NO_SAMPLING, field))
        if placeholder.value is not None:
            raise BadRequest(f"{name!r} is an output: value is for inputs.", param=f"{field}.value")
        variable = self.bindings.bind_output(placeholder.semantic_var_id or name, f"{field}.semantic_var_id")
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
