"""Content blocks of Anthropic's messages, as clients send them.

Responsible for: their shapes, and what a row of them is as messages of a chat: a tool's result is a message of its
own, and an assistant's text, thoughts and calls are one. Our own blocks come back in the next request and are read
here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from compat.openai import chat
from compat.openai.chat import Message
from compat.openai.errors import InvalidField
from compat.openai.tools.fields import CalledFunction, ToolCall

ERROR = "Error: "
"""In front of a tool's result that is one: a chat template has no other place for it."""


class TextBlock(msgspec.Struct, frozen=True):
    """`cache_control` is not looked at: every prefix is cached, and found again by itself."""

    type: str
    text: str | None = None


class ContentBlock(msgspec.Struct, frozen=True, kw_only=True):
    """text, tool_use, tool_result, thinking or redacted_thinking, and only that one's members."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[TextBlock] | None = None
    is_error: bool | None = None
    thinking: str | None = None


class InputMessage(msgspec.Struct, frozen=True):
    role: str
    content: str | list[ContentBlock]


def messages(given: Sequence[InputMessage]) -> list[Message]:
    """The conversation as a chat has it. Raises InvalidField."""
    found: list[Message] = []
    calls: dict[str, str] = {}
    for index, message in enumerate(given):
        at = f"messages[{index}]"
        if message.role == "assistant":
            found.append(_assistant(message, calls, at))
        elif message.role in ("user", "system"):
            found += _user(message, calls, at)
        else:
            raise InvalidField("The role must be one of user, assistant, system.", f"{at}.role")
    return found


def text_of(content: str | Sequence[TextBlock], at: str) -> str:
    """Raises InvalidField."""
    if isinstance(content, str):
        return content
    texts = []
    for index, block in enumerate(content):
        if block.type != "text":
            raise _only_text(f"{at}[{index}].type")
        texts.append(_needed(block.text, f"{at}[{index}].text"))
    return "\n".join(texts)


def _assistant(message: InputMessage, calls: dict[str, str], at: str) -> Message:
    if isinstance(message.content, str):
        return Message("assistant", message.content)
    texts: list[chat.Part] = []
    made: list[ToolCall] = []
    thoughts = ""
    for index, block in enumerate(message.content):
        place = f"{at}.content[{index}]"
        match block.type:
            case "text":
                texts.append(chat.Part("text", _needed(block.text, f"{place}.text")))
            case "thinking":
                thoughts += block.thinking or ""
            case "redacted_thinking":
                pass  # nobody but its author could read it
            case "tool_use":
                call = _call(block, place)
                calls[call.id] = call.function.name
                made.append(call)
            case _:
                raise _only_text(f"{place}.type")
    return Message("assistant", texts, tool_calls=made or None, reasoning_content=thoughts or None)


def _call(block: ContentBlock, at: str) -> ToolCall:
    arguments = msgspec.json.encode(block.input or {}).decode()
    return ToolCall(
        CalledFunction(_needed(block.name, f"{at}.name"), arguments), _needed(block.id, f"{at}.id")
    )


def _user(message: InputMessage, calls: dict[str, str], at: str) -> list[Message]:
    """Results and texts in their order; texts that follow each other are one message."""
    if isinstance(message.content, str):
        return [Message(message.role, message.content)]
    found: list[Message] = []
    texts: list[chat.Part] = []
    for index, block in enumerate(message.content):
        place = f"{at}.content[{index}]"
        if block.type == "text":
            texts.append(chat.Part("text", _needed(block.text, f"{place}.text")))
        elif block.type == "tool_result" and message.role == "user":
            if texts:
                found.append(Message(message.role, texts))
                texts = []
            found.append(_result(block, calls, place))
        else:
            raise _only_text(f"{place}.type")
    if texts or not found:
        found.append(Message(message.role, texts))
    return found


def _result(block: ContentBlock, calls: dict[str, str], at: str) -> Message:
    id = _needed(block.tool_use_id, f"{at}.tool_use_id")
    if id not in calls:
        raise InvalidField("There is no tool_use of this id before it.", f"{at}.tool_use_id")
    text = text_of(block.content or "", f"{at}.content")
    return Message("tool", ERROR + text if block.is_error else text, name=calls[id], tool_call_id=id)


def _needed(value: str | None, param: str) -> str:
    if value is None:
        raise InvalidField("A value is required.", param, "missing_required_parameter")
    return value


def _only_text(param: str) -> InvalidField:
    return InvalidField(
        "Only text, tools and thinking are supported by this server.", param, "unsupported_field"
    )
