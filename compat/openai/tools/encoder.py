"""A chat's chunks and answers when its output may hold calls, or thoughts before the answer.

Responsible for: deltas of text, of reasoning and of calls, ids of calls, and `finish_reason` "tool_calls". The
field knows reasoning by two names, and it has both. A step that only lengthens what is held back is no event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import orjson

from compat.openai.chat import ChatEncoder
from compat.openai.common import Head, Usage
from compat.openai.encoder import Choice, Delta, Prompt, Shown, finish_members
from compat.openai.logprobs import TokenBytes
from compat.openai.reasoning import Thinking, Thought
from compat.openai.tools.calls import Arguments, CallBegun, Event, Text
from compat.openai.tools.parsers import Parser
from compat.openai.tools.reading import Reading


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _State:
    """Of one choice."""

    reading: Reading
    text: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)


class ToolChatEncoder(ChatEncoder):
    """Beside a ChatEncoder's state it owns a parser and the calls of every choice."""

    def __init__(
        self,
        head: Head,
        prompts: Sequence[Prompt],
        n: int,
        shown: Shown,
        bytes_of: TokenBytes,
        parser: Callable[[], Parser],
        most: int | None = None,
        thinking: Thinking | None = None,
    ) -> None:
        """`most`: calls of one output beyond which the others are left out (`parallel_tool_calls` false).

        `thinking` None: thoughts are a part of the text as any other.
        """
        super().__init__(head, prompts, n, shown, bytes_of)
        self._plain = False
        self._most = most
        self._thinking = thinking
        self._states = [_State(Reading(parser(), thinking)) for _ in self.choices]
        self._call_prefix = head.id.removeprefix("chatcmpl-")

    def feed(self, index: int, delta: Delta) -> list[bytes]:
        choice, events = self.choices[index], self._parse(index, delta)
        first = not choice.started
        asked = self._shown.logprobs or self._shown.token_ids or self._shown.continuous_usage
        self._completion_tokens += len(delta.token_ids)
        if not (events or first or asked or delta.finish_reason):
            return []
        if first:
            choice.started, choice.cached_tokens = True, delta.cached_tokens
        parts = [self._chunk_head]
        if first:
            choice.prompt_logprobs = delta.prompt_logprobs
            parts.append(self._of_prompt(choice))
        parts += (b'"choices":[{"index":%d,"delta":' % index, self._delta(index, events, first))
        parts += (b',"logprobs":', self._logprobs(delta))
        if delta.finish_reason is None:
            parts.append(b',"finish_reason":null')
        else:
            parts += (b",", finish_members(self._reason(index, delta.finish_reason), delta.stop_reason))
        if self._shown.token_ids:
            parts += (b',"token_ids":', orjson.dumps(list(delta.token_ids)))
        parts += (b"}]", self._usage_member(), b"}")
        return [b"".join(parts)]

    def collect(self, index: int, delta: Delta) -> None:
        super().collect(index, delta)
        self._parse(index, delta)

    def _whole(self, choice: Choice) -> bytes:
        state = self._states[choice.index]
        text = "".join(state.text)
        message: dict[str, object] = {"role": "assistant", "content": text or None, "refusal": None}
        if state.thoughts:
            message["reasoning_content"] = message["reasoning"] = "".join(state.thoughts)
        if state.calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": "".join(call.arguments)},
                }
                for call in state.calls
            ]
        else:
            message["content"] = text
        ids = b',"token_ids":' + orjson.dumps(choice.token_ids) if self._shown.token_ids else b""
        return b'{"index":%d,"message":%b,"logprobs":%b,%b%b}' % (
            choice.index,
            orjson.dumps(message),
            self._logprobs(choice),
            finish_members(self._reason(choice.index, choice.finish_reason), choice.stop_reason),
            ids,
        )

    def _reason(self, index: int, reason: str | None) -> str | None:
        return "tool_calls" if reason == "stop" and self._states[index].calls else reason

    def _parse(self, index: int, delta: Delta) -> list[Event | Thought]:
        events = self._states[index].reading.read(delta)
        return [event for event in events if self._keep(index, event)]

    def _usage(self) -> Usage:
        usage = super()._usage()
        if self._thinking is not None:
            usage.reasoning_tokens = sum(state.reading.thought_tokens for state in self._states)
        return usage

    def _keep(self, index: int, event: Event | Thought) -> bool:
        state = self._states[index]
        match event:
            case Thought(text):
                state.thoughts.append(text)
                return True
            case Text(text):
                state.text.append(text)
                return True
            case CallBegun(at, name) if self._most is None or at < self._most:
                state.calls.append(_Call(f"call_{self._call_prefix}_{index}_{at}", name))
                return True
            case Arguments(at, text) if at < len(state.calls):
                state.calls[at].arguments.append(text)
                return True
        return False

    def _delta(self, index: int, events: Sequence[Event | Thought], first: bool) -> bytes:
        members: dict[str, object] = {"role": "assistant"} if first else {}
        text = "".join(event.text for event in events if isinstance(event, Text))
        thought = "".join(event.text for event in events if isinstance(event, Thought))
        calls: dict[int, dict[str, object]] = {}
        arguments: dict[int, str] = {}
        for event in events:
            if isinstance(event, CallBegun):
                call = self._states[index].calls[event.index]
                calls[event.index] = {"index": event.index, "id": call.id, "type": "function"}
                arguments.setdefault(event.index, "")
            elif isinstance(event, Arguments):
                calls.setdefault(event.index, {"index": event.index})
                arguments[event.index] = arguments.get(event.index, "") + event.text
        if thought:
            members["reasoning_content"] = members["reasoning"] = thought
        if text:
            members["content"] = text
        elif first:
            members["content"] = None if calls or thought else ""
        if calls:
            members["tool_calls"] = [
                call | {"function": self._function(index, at, "id" in call, arguments[at])}
                for at, call in calls.items()
            ]
        return orjson.dumps(members)

    def _function(self, index: int, at: int, begun: bool, arguments: str) -> dict[str, str]:
        named = {"name": self._states[index].calls[at].name} if begun else {}
        return named | {"arguments": arguments}
