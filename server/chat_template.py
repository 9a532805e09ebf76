"""Renders a conversation with the model's own chat template.

Responsible for: the environment that Hugging Face templates expect, inside Jinja2's immutable sandbox, with
caps on what goes in and what comes out (a render cannot be interrupted by a deadline). A template comes from
the model's folder and never from a request; which arguments a request may pass on is for the endpoint to say.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from server.errors import BadRequest

MAX_MESSAGES = 4096
MAX_INPUT_CHARACTERS = 4_000_000
MAX_OUTPUT_CHARACTERS = 8_000_000


@dataclass(frozen=True, slots=True)
class ChatMessage:
    role: str
    content: str
    name: str | None = None
    tool_calls: tuple[Mapping[str, object], ...] = ()  # as templates want them: arguments are objects
    tool_call_id: str | None = None
    reasoning_content: str | None = None

    def as_template_value(self) -> dict[str, Any]:
        value: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.name is not None:
            value["name"] = self.name
        if self.tool_calls:
            value["tool_calls"] = list(self.tool_calls)
        if self.tool_call_id is not None:
            value["tool_call_id"] = self.tool_call_id
        if self.reasoning_content is not None:
            value["reasoning_content"] = self.reasoning_content
        return value


class ChatTemplate:
    """One compiled template. `special_tokens` are the names a template may use, such as `bos_token`."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Raises jinja2.TemplateSyntaxError."""
        self._template = _environment().from_string(source)
        self._special_tokens = dict(special_tokens)
        self.source = source
        self._knows_developer = "developer" in source
        self._knows_calls = "tool_calls" in source

    def render(
        self,
        messages: Sequence[ChatMessage],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        arguments: Mapping[str, bool | str] | None = None,
        tools: Sequence[Mapping[str, object]] | None = None,
    ) -> str:
        """The prompt's text. Raises BadRequest with param `messages` when the template refuses them."""
        _check_size(messages)
        marker = ""
        if continue_final_message:
            if add_generation_prompt:
                raise BadRequest(
                    "add_generation_prompt and continue_final_message exclude each other.",
                    param="continue_final_message",
                )
            marker = f"<{secrets.token_hex(8)}>"
        text = self._render(self._values(messages, marker), add_generation_prompt, arguments or {}, tools)
        return _cut(text, marker) if marker else text

    def _values(self, messages: Sequence[ChatMessage], marker: str) -> list[dict[str, Any]]:
        values = [message.as_template_value() for message in messages]
        values[-1]["content"] += marker
        if not self._knows_calls:  # then a call is what it was: a text that the model wrote
            for value in values:
                if calls := value.pop("tool_calls", None):
                    value["content"] += _to_json([call["function"] for call in calls])
        if not self._knows_developer:  # OpenAI's newer name of the same thing
            for value in values:
                if value["role"] == "developer":
                    value["role"] = "system"
        return values

    def _render(
        self,
        messages: list[dict[str, Any]],
        add_generation_prompt: bool,
        arguments: Mapping[str, bool | str],
        tools: Sequence[Mapping[str, object]] | None,
    ) -> str:
        parts: list[str] = []
        size = 0
        try:
            for part in self._template.generate(
                self._special_tokens,
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **arguments,
            ):
                parts.append(part)
                size += len(part)
                if size > MAX_OUTPUT_CHARACTERS:
                    raise BadRequest("The rendered conversation is too long.", param="messages")
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise BadRequest(
                f"The model's chat template does not accept these messages: {error}", param="messages"
            ) from error
        return "".join(parts)


def _check_size(messages: Sequence[ChatMessage]) -> None:
    if not messages:
        raise BadRequest("messages must not be empty.", param="messages")
    if len(messages) > MAX_MESSAGES:
        raise BadRequest(f"At most {MAX_MESSAGES} messages are allowed.", param="messages")
    if sum(len(each.content) + len(each.reasoning_content or "") for each in messages) > MAX_INPUT_CHARACTERS:
        raise BadRequest(f"The messages have more than {MAX_INPUT_CHARACTERS} characters.", param="messages")


def _cut(text: str, marker: str) -> str:
    """`text` up to the end of the last message, which the marker ends; templates may trim around it."""
    before, found, _ = text.rpartition(marker)
    if not found:
        raise BadRequest("The chat template does not show the last message as it is.", param="messages")
    return before


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's part for training; here it is just its content."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own type)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja2's own filter escapes for HTML, which no model was trained on."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
