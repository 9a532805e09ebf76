"""`POST /v1/messages` and its `count_tokens`: their fields, and what they are in the terms of a chat.

Responsible for: names and types as clients send them (null is absent), the refusal by name of what is not
supported, and one form of a conversation (`as_chat`), so that whatever holds for a chat holds here. An error of a
chat names the chat's field; `field_of` says which one of ours it was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from compat.anthropic.content import InputMessage, TextBlock, messages, text_of
from compat.openai import refusal
from compat.openai.chat import ChatRequest, Effort, Message
from compat.openai.errors import InvalidField
from compat.openai.hints import Nvext
from compat.openai.tools.fields import Function, NamedFunction, NamedTool, Tool, ToolChoice


class ClientTool(msgspec.Struct, frozen=True, kw_only=True):
    """A function of the client; types other than `custom` are Anthropic's own tools."""

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None


class ChosenTool(msgspec.Struct, frozen=True):
    """`any`: some tool has to be called; `tool`: the one of this name."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingOptions(msgspec.Struct, frozen=True):
    """`adaptive` and `between_tools` leave it to the model, `disabled` closes its thoughts where its template can.
    `display` omitted: they are no part of the answer."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputOptions(msgspec.Struct, frozen=True):
    """`effort` is for the chat template; `format` a JSON schema."""

    effort: Effort | None = None
    format: dict[str, Any] | None = None


class Metadata(msgspec.Struct, frozen=True):
    """`user_id`: who is behind the client, for its own use."""

    user_id: str | None = None


class CountRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a prompt. `Any` marks what is only there to be refused by name."""

    messages: list[InputMessage]
    model: str | None = None
    system: str | list[TextBlock] | None = None
    tools: list[ClientTool] | None = None
    tool_choice: ChosenTool | None = None
    thinking: ThinkingOptions | None = None
    output_config: OutputOptions | None = None

    container: Any = None
    context_management: Any = None
    mcp_servers: Any = None
    speed: Any = None


class MessagesRequest(CountRequest, frozen=True, kw_only=True):
    """Anthropic's fields, then those that our chat completions have beside them."""

    max_tokens: int
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

    seed: int | None = None
    ignore_eos: bool | None = None
    cache_salt: str | None = None
    session_id: str | None = None
    program_id: str | None = None
    priority: int | None = None
    nvext: Nvext | None = None

    diagnostics: Any = None
    inference_geo: Any = None


_SHARED = (
    "temperature",
    "top_p",
    "top_k",
    "stream",
    "seed",
    "ignore_eos",
    "cache_salt",
    "session_id",
    "program_id",
    "priority",
    "nvext",
)
"""Fields that a chat has under the same name and in the same meaning."""

_REFUSED_COUNT = ("container", "context_management", "mcp_servers", "speed")
_REFUSED = ("diagnostics", "inference_geo")
_HARMLESS: Sequence[tuple[str, object]] = (
    ("context_management", {"edits": []}),
    ("mcp_servers", []),
    ("speed", "standard"),
)

_NAMES = {
    "stop": "stop_sequences",
    "max_completion_tokens": "max_tokens",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
}
_FUNCTION = re.compile(r"^(tools\[\d+\]|tool_choice)\.function\b")


def check(request: CountRequest) -> None:
    """What only these endpoints have; the rest is checked as a chat. Raises InvalidField."""
    names = (*_REFUSED_COUNT, *(_REFUSED if isinstance(request, MessagesRequest) else ()))
    refusal.refuse(request, (name for name in names if (name, getattr(request, name)) not in _HARMLESS))
    if request.thinking is not None and request.thinking.type == "enabled":
        raise InvalidField(
            "A budget of thinking tokens is not supported by this server; adaptive thinking is.",
            "thinking.type",
            "unsupported_field",
        )


def as_chat(request: CountRequest) -> ChatRequest:
    """The same request to chat completions. A last message of the assistant is continued. Raises InvalidField."""
    choice, thinking = request.tool_choice, request.thinking
    output = request.output_config or OutputOptions()
    parallel = choice is None or not choice.disable_parallel_tool_use
    disabled = thinking is not None and thinking.type == "disabled"
    continued = bool(request.messages) and request.messages[-1].role == "assistant"
    chat = ChatRequest(
        messages=_conversation(request, continued),
        model=request.model,
        tools=_tools(request.tools or ()),
        tool_choice=_tool_choice(choice),
        parallel_tool_calls=None if parallel else False,
        response_format=output.format,
        reasoning_effort="none" if disabled else output.effort,
        include_reasoning=not (thinking is not None and thinking.display == "omitted"),
        add_generation_prompt=not continued,
        continue_final_message=continued,
    )
    return _answered(chat, request) if isinstance(request, MessagesRequest) else chat


def _conversation(request: CountRequest, continued: bool) -> list[Message]:
    found = messages(request.messages)
    if continued and found[-1].tool_calls:
        at = f"messages[{len(request.messages) - 1}].content"
        raise InvalidField("A tool_use has to be followed by its tool_result.", at)
    if request.system is None:
        return found
    return [Message("system", text_of(request.system, "system")), *found]


def _answered(chat: ChatRequest, request: MessagesRequest) -> ChatRequest:
    """With what matters to the answer alone."""
    return msgspec.structs.replace(
        chat,
        max_tokens=request.max_tokens,
        stop=request.stop_sequences,
        user=request.metadata.user_id if request.metadata is not None else None,
        service_tier="default" if request.service_tier == "standard_only" else request.service_tier,
        **{name: getattr(request, name) for name in _SHARED},
    )


def field_of(param: str) -> str:
    """Which of our fields an error of a chat is about."""
    head, dot, rest = param.partition(".")
    name = _FUNCTION.sub(r"\1", _NAMES.get(head, head) + dot + rest)
    return re.sub(r"^(tools\[\d+\])\.parameters\b", r"\1.input_schema", name)


def _tools(tools: Sequence[ClientTool]) -> list[Tool] | None:
    found: list[Tool] = []
    for index, tool in enumerate(tools):
        at = f"tools[{index}]"
        if tool.type not in (None, "custom"):
            raise InvalidField(
                "Only tools of the client are supported by this server.", f"{at}.type", "unsupported_field"
            )
        if tool.input_schema is None:
            raise InvalidField("A schema is required.", f"{at}.input_schema", "missing_required_parameter")
        if tool.defer_loading:
            raise InvalidField(
                "defer_loading is not supported by this server.", f"{at}.defer_loading", "unsupported_field"
            )
        found.append(Tool(Function(tool.name, tool.description, tool.input_schema, tool.strict)))
    return found or None


def _tool_choice(choice: ChosenTool | None) -> ToolChoice | None:
    match choice:
        case None:
            return None
        case ChosenTool("tool", None):
            raise InvalidField(
                "A tool is chosen by its name.", "tool_choice.name", "missing_required_parameter"
            )
        case ChosenTool("tool", str(name)):
            return NamedTool(NamedFunction(name))
        case ChosenTool("any"):
            return "required"
        case ChosenTool("none"):
            return "none"
    return "auto"
