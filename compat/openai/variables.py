"""A chat call as one step of a program: the `parrot` member of a request, and of its answer.

    {"messages": [... {{input:a}} ...],
     "parrot": {"session_id": "sess_...", "inputs": {"a": "task"}, "output": "code"}}

Responsible for: its shape, which other fields have no meaning beside it, and the call of the extension API that it
is: the conversation, with the output in the place of the next message. Waiting, filling and generating are the
session's, as for any other call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec
import orjson

from compat.openai import refusal
from compat.openai.binding import Told
from compat.openai.chat import ChatEncoder, ChatRequest, Message, text_of
from compat.openai.common import Head, InvalidField, Usage
from compat.openai.encoder import Prompt, Shown

ANSWER = "parrot_answer"
"""The placeholder's name in the template; the variable has the client's."""

_OUTPUT = re.compile(r"\{\{\s*output\s*:")

ALONE = (
    "add_generation_prompt",
    "add_special_tokens",
    "allowed_token_ids",
    "bad_words",
    "best_of",
    "cache_salt",
    "chat_template_kwargs",
    "continue_final_message",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "include_reasoning",
    "logprobs",
    "n",
    "nvext",
    "priority",
    "program_id",
    "prompt_logprobs",
    "reasoning_effort",
    "return_token_ids",
    "session_id",
    "structured_outputs",
    "tool_choice",
    "tools",
    "top_logprobs",
)
"""Fields of a chat that mean nothing beside `parrot`."""

_NOTHING: Mapping[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
    "add_special_tokens": (False,),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "include_reasoning": (True,),
    "logprobs": (False,),
    "n": (1,),
    "priority": (0,),
    "return_token_ids": (False,),
    "structured_outputs": ({},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}
"""Values that change nothing."""


def check(request: ChatRequest, most_seconds: float) -> None:
    """Raises InvalidField."""
    binding = request.parrot
    assert binding is not None
    for name in ALONE:
        if refusal.asks(getattr(request, name), _NOTHING.get(name, ())):
            raise InvalidField(f"{name} has no meaning beside parrot.", name, "unsupported_field")
    if binding.seconds is not None and not 0 <= binding.seconds <= most_seconds:
        raise InvalidField(f"wait is a boolean, or 0 to {most_seconds:.0f} seconds.", "parrot.wait")
    if not request.messages:
        raise InvalidField("messages must not be empty.", "messages")
    for index, message in enumerate(request.messages):
        if _OUTPUT.search(text_of(message)):
            raise InvalidField("The answer of a chat is its one output.", f"messages[{index}].content")
        for name in ("tool_calls", "tool_call_id"):
            if getattr(message, name):
                param = f"messages[{index}].{name}"
                raise InvalidField("Tools have no meaning beside parrot.", param, "unsupported_field")


def conversation(messages: Sequence[Message]) -> list[tuple[str, str, str | None]]:
    """(role, content, name) of each message, and at the end the answer as it will stand there."""
    told = [(message.role, text_of(message), message.name) for message in messages]
    return [*told, ("assistant", f"{{{{output:{ANSWER}}}}}", None)]


class BoundChatEncoder(ChatEncoder):
    """One choice whose text comes from a variable. Its usage is known when the call has ended."""

    def __init__(self, head: Head, shown: Shown, told: Told) -> None:
        super().__init__(head, [Prompt(())], 1, shown, lambda id: b"")
        self._told = told
        self._counted = Usage(0)

    def ended(self, told: Told, usage: Usage) -> None:
        """Before the last delta."""
        self._told, self._counted = told, usage

    def _usage(self) -> Usage:
        return self._counted

    def _of_prompt(self, choice: object) -> bytes:
        """In the first chunk, and in the answer."""
        return b'"parrot":%b,' % orjson.dumps(msgspec.to_builtins(self._told))
