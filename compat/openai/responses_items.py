"""Items of the Responses API: what a conversation is made of, given by a client or written by us.

Responsible for: their shapes as clients send them, what they are as messages of a chat, and what they look like
when they are listed. Ours come back as input in the next request, so every shape that we write is read here too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from compat.openai import chat
from compat.openai.chat import Message
from compat.openai.errors import InvalidField
from compat.openai.tools.fields import CalledFunction, ToolCall

MAX_ITEMS = 8192
"""Of a conversation."""

_ROLES = ("user", "assistant", "system", "developer")
_TEXTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")


class Part(msgspec.Struct, frozen=True):
    """Of a message, of a tool's output or of a thought; only text is supported."""

    type: str
    text: str | None = None
    refusal: str | None = None


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """A message, a function call, a function's output, or a thought. Absent `type`: a message."""

    type: str | None = None
    id: str | None = None
    role: str | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None
    summary: list[Part] | None = None
    encrypted_content: Any = None

    def __post_init__(self) -> None:
        """So that decoding ends at the first of a million empty objects."""
        if self.type is None and self.role is None:
            raise ValueError("An item needs a type, or a role")


def given(input: str | Sequence[Item]) -> Sequence[Item]:
    """A text alone is a message of the user."""
    return [Item(role="user", content=input)] if isinstance(input, str) else input


def messages(history: Sequence[Item], new: Sequence[Item]) -> list[Message]:
    """The conversation as a chat has it: calls belong to the assistant's message before them, and so do thoughts.

    Raises InvalidField, with the place in `input` for an item of `new`.
    """
    if len(history) + len(new) > MAX_ITEMS:
        raise InvalidField(f"A conversation may have at most {MAX_ITEMS} items.", "input")
    found: list[Message] = []
    calls: dict[str, str] = {}
    thought = ""
    for index, item in enumerate((*history, *new)):
        at = f"input[{index - len(history)}]" if index >= len(history) else "previous_response_id"
        match item.type:
            case "reasoning":
                thought += _text(item.content or item.summary, f"{at}.content")
                continue
            case "message" | None:
                found.append(_message(item, thought, at))
            case "function_call":
                call = _call(item, at)
                calls[call.id] = call.function.name
                _append_call(found, call, thought)
            case "function_call_output":
                found.append(_output(item, calls, at))
            case other:
                raise _unsupported(f"Items of type {other!r} are not supported by this server.", f"{at}.type")
        thought = ""
    return found


def listed(items: Sequence[Item], stem: str) -> bytes:
    """As JSON, in the shape in which OpenAI lists them. `stem` makes the ids of those that have none."""
    return msgspec.json.encode([_listed(item, f"{stem}_{index}") for index, item in enumerate(items)])


def _message(item: Item, thought: str, at: str) -> Message:
    if item.role not in _ROLES:
        raise InvalidField(f"The role must be one of {', '.join(_ROLES)}.", f"{at}.role")
    if item.content is None:
        raise InvalidField("A message needs content.", f"{at}.content", "missing_required_parameter")
    content: str | list[chat.Part]
    if isinstance(item.content, str):
        content = item.content
    else:
        content = [chat.Part("text", text) for text in _texts(item.content, f"{at}.content")]
    if item.role == "assistant" and thought:
        return Message(item.role, content, reasoning_content=thought)
    return Message(item.role, content)


def _call(item: Item, at: str) -> ToolCall:
    for name in ("call_id", "name", "arguments"):
        if getattr(item, name) is None:
            raise InvalidField(f"A function call needs {name}.", f"{at}.{name}", "missing_required_parameter")
    return ToolCall(CalledFunction(item.name or "", item.arguments or ""), item.call_id or "")


def _append_call(found: list[Message], call: ToolCall, thought: str) -> None:
    last = found[-1] if found else None
    if last is None or last.role != "assistant" or thought:
        found.append(Message("assistant", tool_calls=[call], reasoning_content=thought or None))
    elif last.tool_calls is None:
        found[-1] = msgspec.structs.replace(last, tool_calls=[call])
    else:
        last.tool_calls.append(call)  # made here: nobody else has it


def _output(item: Item, calls: dict[str, str], at: str) -> Message:
    if item.call_id is None or item.call_id not in calls:
        raise InvalidField("There is no function call of this call_id before it.", f"{at}.call_id")
    if item.output is None:
        raise InvalidField("A function's output needs output.", f"{at}.output", "missing_required_parameter")
    text = item.output if isinstance(item.output, str) else _text(item.output, f"{at}.output")
    return Message("tool", text, name=calls[item.call_id], tool_call_id=item.call_id)


def _text(content: str | Sequence[Part] | None, at: str) -> str:
    return content if isinstance(content, str) else "\n".join(_texts(content or (), at))


def _texts(parts: Sequence[Part], at: str) -> Iterator[str]:
    for index, part in enumerate(parts):
        text = part.refusal if part.type == "refusal" else part.text
        if part.type != "refusal" and part.type not in _TEXTS:
            raise _unsupported("Only text parts are supported by this server.", f"{at}[{index}].type")
        if text is None:
            raise InvalidField("A text part needs text.", f"{at}[{index}].text")
        yield text


def _unsupported(message: str, param: str) -> InvalidField:
    return InvalidField(message, param, "unsupported_field")


def _listed(item: Item, stem: str) -> dict[str, object]:
    """An assistant's message says what it is by its parts too."""
    match item.type:
        case "function_call":
            own: dict[str, object] = {
                "call_id": item.call_id,
                "name": item.name,
                "arguments": item.arguments,
            }
            prefix = "fc"
        case "function_call_output":
            output = item.output if isinstance(item.output, str) else _parts(item.output or (), "input_text")
            own, prefix = {"call_id": item.call_id, "output": output}, "fco"
        case "reasoning":
            content = item.content if isinstance(item.content, list) else ()
            own = {
                "summary": _parts(item.summary or (), "summary_text"),
                "content": _parts(content, "reasoning_text"),
            }
            prefix = "rs"
        case _:
            kind = "output_text" if item.role == "assistant" else "input_text"
            parts = [Part("text", item.content)] if isinstance(item.content, str) else item.content or ()
            own, prefix = {"role": item.role, "content": _parts(parts, kind)}, "msg"
    return {"id": item.id or f"{prefix}_{stem}", "type": item.type or "message", "status": "completed"} | own


def _parts(parts: Sequence[Part], kind: str) -> list[dict[str, object]]:
    extra: dict[str, object] = {"annotations": [], "logprobs": []} if kind == "output_text" else {}
    return [
        {"type": "refusal", "refusal": part.refusal}
        if part.type == "refusal"
        else {"type": kind, "text": part.text, **extra}
        for part in parts
    ]
