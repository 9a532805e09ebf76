"""`POST /v1/chat/completions`: its fields, and its chunks and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import orjson

from compat.openai import refusal
from compat.openai.binding import Binding
from compat.openai.common import GenerationFields, InvalidField, check_generation, check_logprobs, refuse
from compat.openai.encoder import Choice, Delta, Encoder, finish_members
from compat.openai.logprobs import chat_logprobs, prompt_logprobs
from compat.openai.tools import fields
from compat.openai.tools.fields import Tool, ToolCall, ToolChoice

TEMPLATE_ARGUMENTS = ("enable_thinking", "thinking")
"""Booleans that a request may hand to the chat template: the switches of hybrid reasoning models."""

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

MAX_MESSAGES = 4096
MAX_ARGUMENTS = 1_000_000
"""Characters of the arguments of all calls together: templates are given them as JSON."""

_ROLES = ("system", "developer", "user", "assistant", "tool")


class Part(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None


class Message(msgspec.Struct, frozen=True):
    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # another name for it
    function_call: Any = None
    audio: Any = None


class ChatRequest(GenerationFields, frozen=True, kw_only=True):
    """`max_completion_tokens` wins over `max_tokens`; without either, an output may fill the context."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    include_reasoning: bool | None = None  # absent: true

    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    store: bool | None = None  # nothing is kept, whatever it says
    metadata: dict[str, str] | None = None  # of what is stored
    safety_identifier: str | None = None  # as `user`
    parrot: Binding | None = None
    prompt_cache_key: str | None = None  # the cache finds by itself what requests have in common

    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    chat_template: Any = None
    documents: Any = None
    prediction: Any = None
    web_search_options: Any = None
    moderation: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    verbosity: Any = None
    echo: Any = None
    mm_processor_kwargs: Any = None
    media_io_kwargs: Any = None
    thinking_token_budget: Any = None

    @property
    def output_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


def check(request: ChatRequest) -> None:
    """All but the messages. Raises InvalidField."""
    check_generation(request)
    refuse(request, refusal.CHAT)
    if request.best_of is not None and request.best_of != request.choices:
        raise InvalidField("A chat has no best_of other than n.", "best_of", "unsupported_field")
    fields.check(request.tools or (), request.tool_choice)
    check_logprobs(request.top_logprobs, "top_logprobs")
    if request.top_logprobs and not request.logprobs:
        raise InvalidField("top_logprobs is only allowed when logprobs is true.", "top_logprobs")
    _check_template_arguments(request.chat_template_kwargs or {})


def _check_template_arguments(arguments: Mapping[str, object]) -> None:
    for name, value in arguments.items():
        param = f"chat_template_kwargs.{name}"
        if name not in TEMPLATE_ARGUMENTS:
            raise InvalidField(f"Only {', '.join(TEMPLATE_ARGUMENTS)} may be passed to the template.", param)
        if not isinstance(value, bool):
            raise InvalidField(f"{name} must be true or false.", param, "invalid_type")


def check_messages(messages: Sequence[Message]) -> None:
    """Raises InvalidField."""
    if len(messages) > MAX_MESSAGES:
        raise InvalidField(f"At most {MAX_MESSAGES} messages are allowed.", "messages")
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]")
    if (
        sum(len(call.function.arguments) for each in messages for call in each.tool_calls or ())
        > MAX_ARGUMENTS
    ):
        raise InvalidField(f"The calls' arguments have more than {MAX_ARGUMENTS} characters.", "messages")


def arguments(messages: Sequence[Message]) -> str:
    """What is JSON within the texts of a conversation."""
    return ",".join(call.function.arguments for each in messages for call in each.tool_calls or ())


def _check_message(message: Message, at: str) -> None:
    refuse(message, ("function_call", "audio"), f"{at}.")
    if message.role not in _ROLES:
        raise InvalidField(f"The role must be one of {', '.join(_ROLES)}.", f"{at}.role")
    if isinstance(message.content, list):
        for index, part in enumerate(message.content):
            if part.type != "text":
                param = f"{at}.content[{index}].type"
                raise InvalidField(
                    "Only text parts are supported by this server.", param, "unsupported_field"
                )
            if part.text is None:
                raise InvalidField("A text part needs text.", f"{at}.content[{index}].text")


def text_of(message: Message) -> str:
    """The content as one text; parts are lines."""
    if isinstance(message.content, list):
        return "\n".join(part.text or "" for part in message.content)
    return message.content or ""


class ChatEncoder(Encoder):
    """The role comes with a choice's first text, so that every event of a stream is a step of the model."""

    chunk_object = "chat.completion.chunk"
    answer_object = "chat.completion"

    def _text_head(self, index: int) -> bytes:
        return self._chunk_head + b'"choices":[{"index":%d,"delta":{"content":' % index

    def _text_end(self) -> bytes:
        return b'},"logprobs":null,"finish_reason":null}]'

    def _chunk(self, choice: Choice, delta: Delta, first: bool) -> bytes:
        parts = [self._chunk_head]
        if first:
            parts.append(self._of_prompt(choice))
        parts.append(b'"choices":[{"index":%d,"delta":' % choice.index)
        if first:
            parts += (b'{"role":"assistant","content":', orjson.dumps(delta.text), b"}")
        else:
            parts.append(b'{"content":%b}' % orjson.dumps(delta.text) if delta.text else b"{}")
        parts += (b',"logprobs":', self._logprobs(delta))
        if delta.finish_reason is None:
            parts.append(b',"finish_reason":null')
        else:
            parts += (b",", finish_members(delta.finish_reason, delta.stop_reason))
        if self._shown.token_ids:
            parts += (b',"token_ids":', orjson.dumps(list(delta.token_ids)))
        parts += (b"}]", self._usage_member(), b"}")
        return b"".join(parts)

    def _whole(self, choice: Choice) -> bytes:
        ids = b',"token_ids":' + orjson.dumps(choice.token_ids) if self._shown.token_ids else b""
        message = b'{"role":"assistant","content":%b,"refusal":null}' % orjson.dumps("".join(choice.parts))
        return b'{"index":%d,"message":%b,"logprobs":%b,%b%b}' % (
            choice.index,
            message,
            self._logprobs(choice),
            finish_members(choice.finish_reason, choice.stop_reason),
            ids,
        )

    def _logprobs(self, of: Delta | Choice) -> bytes:
        if not self._shown.logprobs:
            return b"null"
        return chat_logprobs(of.token_ids, of.logprobs, self._bytes_of)

    def _answer_extra(self) -> bytes:
        members = self._of_prompt(self.choices[0])
        return b"," + members[:-1] if members else b""

    def _of_prompt(self, choice: Choice) -> bytes:
        """Members about the prompt, each with a comma behind it. Streamed, only the first choice has its scores."""
        members, ids = b"", choice.prompt.token_ids
        if self._shown.token_ids:
            members = b'"prompt_token_ids":%b,' % orjson.dumps(list(ids))
        top = self._shown.prompt_logprobs
        if top is not None and len(choice.prompt_logprobs) == len(ids) - 1:
            found = prompt_logprobs(ids, choice.prompt_logprobs, top, self._bytes_of)
            members += b'"prompt_logprobs":%b,' % found
        return members
