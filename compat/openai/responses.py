"""`POST /v1/responses`: its fields, what they are in the terms of a chat, and how an answer repeats them.

Responsible for: names and types as clients send them (null is absent), the refusal by name of what is not
supported, and one form of a conversation (`as_chat`), so that whatever holds for a chat holds here: templates,
tools, formats and ranges. An error of a chat names the chat's field; `field_of` says which one of ours it was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from compat.openai import refusal
from compat.openai.chat import ChatRequest, Effort, Message
from compat.openai.common import StreamOptions, check_logprobs
from compat.openai.errors import InvalidField
from compat.openai.hints import Nvext
from compat.openai.responses_items import Item, given, messages
from compat.openai.tools.fields import Function, NamedFunction, NamedTool, Tool, ToolChoice

LOGPROBS = "message.output_text.logprobs"

Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
"""All but the first are parts of items that no answer of ours has."""

MAX_METADATA = 16
MAX_METADATA_KEY = 64  # characters
MAX_METADATA_VALUE = 512


class Reasoning(msgspec.Struct, frozen=True):
    """`effort` is for the chat template. What a model thinks is shown as it is, which is its summary `auto`."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class TextOptions(msgspec.Struct, frozen=True):
    """`format`: text, json_object, or json_schema with its members beside the type."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class FunctionTool(msgspec.Struct, frozen=True):
    """A function of the client; other types are OpenAI's own tools."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class AllowedTool(msgspec.Struct, frozen=True):
    type: str
    name: str | None = None


class ChosenTool(msgspec.Struct, frozen=True):
    """A function by name, or (`allowed_tools`) which of the tools there are for this answer."""

    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[AllowedTool] | None = None


class ResponseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's fields, then those that our chat completions have beside them. `Any` marks what is only there to be
    refused by name."""

    input: str | list[Item] | None = None
    model: str | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    include: list[Includable] | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None  # of OpenAI's own tools, which there are none of
    truncation: Literal["auto", "disabled"] | None = None
    background: bool | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    service_tier: str | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    priority: int | None = None
    cache_salt: str | None = None
    session_id: str | None = None
    program_id: str | None = None
    nvext: Nvext | None = None

    access_programs: Any = None
    context_management: Any = None
    conversation: Any = None
    image: Any = None
    moderation: Any = None
    prompt: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None

    @property
    def stored(self) -> bool:
        return self.store is not False

    @property
    def logprobs(self) -> bool:
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())


_REFUSED = (
    "access_programs",
    "context_management",
    "conversation",
    "image",
    "moderation",
    "prompt",
    "prompt_cache_options",
    "prompt_cache_retention",
)

_SHARED = tuple(
    sorted(
        ({*ResponseRequest.__struct_fields__} & {*ChatRequest.__struct_fields__})
        - {"tools", "tool_choice", "top_logprobs", *_REFUSED}
    )
)
"""Fields that a chat has under the same name and in the same meaning."""

_NAMES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
_FUNCTION = re.compile(r"^(tools\[\d+\]|tool_choice)\.function\b")


def check(request: ResponseRequest) -> None:
    """What only this endpoint has; the rest is checked as a chat. Raises InvalidField."""
    refusal.refuse(request, _REFUSED)
    if request.input is None:
        raise InvalidField("input is required.", "input", "missing_required_parameter")
    if request.truncation == "auto":
        raise _unsupported("truncation auto is not supported by this server.", "truncation")
    if request.text is not None and request.text.verbosity not in (None, "medium"):
        raise _unsupported("verbosity is not supported by this server.", "text.verbosity")
    if request.reasoning is not None:
        for name in ("summary", "generate_summary"):
            if getattr(request.reasoning, name) not in (None, "auto"):
                raise _unsupported("Only auto is supported by this server.", f"reasoning.{name}")
    check_logprobs(request.top_logprobs, "top_logprobs")
    if request.max_tool_calls is not None and request.max_tool_calls < 1:
        raise InvalidField("max_tool_calls must be 1 or more.", "max_tool_calls")
    _check_metadata(request.metadata or {})
    _check_background(request)


def _check_metadata(metadata: Mapping[str, str]) -> None:
    if len(metadata) > MAX_METADATA:
        raise InvalidField(f"At most {MAX_METADATA} pairs are allowed.", "metadata")
    for key, value in metadata.items():
        if len(key) > MAX_METADATA_KEY or len(value) > MAX_METADATA_VALUE:
            raise InvalidField(
                f"A key has at most {MAX_METADATA_KEY} characters, a value {MAX_METADATA_VALUE}.",
                f"metadata.{key[:MAX_METADATA_KEY]}",
            )


def _check_background(request: ResponseRequest) -> None:
    if request.background and not request.stored:
        raise InvalidField("What runs in the background is asked for by id, so it must be stored.", "store")


def as_chat(
    request: ResponseRequest, history: Sequence[Item] = (), conversation: str | None = None
) -> ChatRequest:
    """The same request to chat completions; `history` is what came before `input`. What belongs to the same
    `conversation` is a session to the scheduler, unless the client names one. Raises InvalidField."""
    system = [] if request.instructions is None else [Message("system", request.instructions)]
    logprobs = request.logprobs
    reasoning = request.reasoning or Reasoning()
    shared = {name: getattr(request, name) for name in _SHARED}
    if request.session_id is None:
        shared["session_id"] = conversation
    return ChatRequest(
        messages=[*system, *messages(history, given(request.input or []))],
        max_completion_tokens=request.max_output_tokens,
        response_format=None if request.text is None else request.text.format,
        reasoning_effort=reasoning.effort,
        logprobs=logprobs or None,
        top_logprobs=request.top_logprobs if logprobs else None,
        tools=_tools(request),
        tool_choice=_tool_choice(request.tool_choice),
        **shared,
    )


def field_of(param: str) -> str:
    """Which of our fields an error of a chat is about."""
    head, dot, rest = param.partition(".")
    return _FUNCTION.sub(r"\1", _NAMES.get(head, head) + dot + rest)


def echo(request: ResponseRequest, temperature: float, top_p: float) -> dict[str, object]:
    """The members of an answer that repeat the request, complete with what was absent."""
    text = request.text or TextOptions()
    reasoning = request.reasoning or Reasoning()
    return {
        "background": bool(request.background),
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary},
        "safety_identifier": request.safety_identifier,
        "service_tier": "flex" if request.service_tier == "flex" else "default",
        "store": request.stored,
        "temperature": temperature,
        "text": {"format": text.format or {"type": "text"}, "verbosity": "medium"},
        "tool_choice": _chosen(request.tool_choice),
        "tools": [msgspec.structs.asdict(tool) for tool in request.tools or ()],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": top_p,
        "truncation": "disabled",
        "user": request.user,
    }


def _tools(request: ResponseRequest) -> list[Tool] | None:
    """Those that may be called."""
    tools: list[Tool] = []
    for index, tool in enumerate(request.tools or ()):
        if tool.type != "function":
            raise _unsupported("Only functions are supported by this server.", f"tools[{index}].type")
        if tool.name is None:
            raise InvalidField(
                "A function needs a name.", f"tools[{index}].name", "missing_required_parameter"
            )
        tools.append(Tool(Function(tool.name, tool.description, tool.parameters, tool.strict)))
    choice = request.tool_choice
    if not isinstance(choice, ChosenTool) or choice.type != "allowed_tools":
        return tools or None
    names = [tool.function.name for tool in tools]
    for index, allowed in enumerate(choice.tools or ()):
        if allowed.type != "function" or allowed.name not in names:
            raise InvalidField("There is no tool of this name.", f"tool_choice.tools[{index}].name")
    allowed_names = {allowed.name for allowed in choice.tools or ()}
    return [tool for tool in tools if tool.function.name in allowed_names] or None


def _tool_choice(choice: Literal["none", "auto", "required"] | ChosenTool | None) -> ToolChoice | None:
    if not isinstance(choice, ChosenTool):
        return choice
    if choice.type == "allowed_tools":
        return choice.mode or "auto"
    if choice.type != "function":
        raise _unsupported("Only functions are supported by this server.", "tool_choice.type")
    if choice.name is None:
        raise InvalidField(
            "A function is chosen by its name.", "tool_choice.name", "missing_required_parameter"
        )
    return NamedTool(NamedFunction(choice.name))


def _chosen(choice: Literal["none", "auto", "required"] | ChosenTool | None) -> object:
    if not isinstance(choice, ChosenTool):
        return choice or "auto"
    if choice.type == "function":
        return {"type": "function", "name": choice.name}
    tools = [msgspec.structs.asdict(tool) for tool in choice.tools or ()]
    return {"type": choice.type, "mode": choice.mode or "auto", "tools": tools}


def _unsupported(message: str, param: str) -> InvalidField:
    return InvalidField(message, param, "unsupported_field")
