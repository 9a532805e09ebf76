"""A message as JSON: the events of its stream, or the whole of it.

Responsible for: which content blocks the blocks of an output are, the sequence of events that tells of them, the
reason for which it stopped, and usage. Pure: text in, events out, no framing.

    message_start                                    with the first step: it says how much of the prompt was cached
      content_block_start, content_block_delta*, content_block_stop                         for each block
    message_delta, message_stop
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import orjson

from compat.blocks import Block, Blocks, Change, Closed, Grown, Kind, Opened, TypedEvent
from compat.openai.encoder import Delta

_DELTAS: Mapping[Kind, tuple[bytes, bytes]] = {
    "text": (b"text_delta", b"text"),
    "thought": (b"thinking_delta", b"thinking"),
    "call": (b"input_json_delta", b"partial_json"),
}
"""By kind of block: the type of a delta, and its member with the new piece."""

_TEXT_DELTA = (
    b'{"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":%b}}'  # as `_told` has it
)

MESSAGE_STOP = TypedEvent("message_stop", b'{"type":"message_stop"}')


@dataclass(frozen=True, slots=True)
class MessageHead:
    """What a message begins with. `stem` makes its own id and those of its calls."""

    stem: str
    model: str
    prompt_tokens: int

    @property
    def id(self) -> str:
        return f"msg_{self.stem}"


class MessageEncoder:
    """Owns the state of one message. A stream is `feed()` for every step and `end()`; a whole answer is `collect()`
    for every step and `answer()`."""

    def __init__(self, head: MessageHead, blocks: Blocks) -> None:
        self.head = head
        self._blocks = blocks
        self._started = False
        self._stop_reason: str | None = None
        self._stop_sequence: str | None = None
        self._cached_tokens = self._output_tokens = 0

    def feed(self, delta: Delta) -> list[TypedEvent]:
        """The events of what a step added."""
        if (block := self._blocks.lengthen(delta)) is not None:
            self._output_tokens += len(delta.token_ids)
            data = _TEXT_DELTA % (block.index, orjson.dumps(delta.text))
            return [TypedEvent("content_block_delta", data)]
        first = not self._started
        changes = self._advance(delta)
        start = [self._start()] if first else []
        return start + [self._told(change) for change in changes]

    def end(self) -> list[TypedEvent]:
        """After the last step."""
        members = {
            "type": "message_delta",
            "delta": {"stop_reason": self._stop_reason, "stop_sequence": self._stop_sequence},
            "usage": self._usage(self._output_tokens, self._blocks.thought_tokens),
        }
        return [TypedEvent("message_delta", orjson.dumps(members)), MESSAGE_STOP]

    def collect(self, delta: Delta) -> None:
        if self._blocks.lengthen(delta) is not None:
            self._output_tokens += len(delta.token_ids)
            return
        self._advance(delta)

    def answer(self) -> bytes:
        return msgspec.json.encode(
            self._message(
                [self._content(block) for block in self._blocks.blocks],
                self._usage(self._output_tokens, self._blocks.thought_tokens),
            )
        )

    def _advance(self, delta: Delta) -> list[Change]:
        if not self._started:
            self._started, self._cached_tokens = True, delta.cached_tokens
        self._output_tokens += len(delta.token_ids)
        changes = self._blocks.feed(delta)
        if delta.finish_reason == "length":
            self._stop_reason = "max_tokens"
        elif isinstance(delta.stop_reason, str):
            self._stop_reason, self._stop_sequence = "stop_sequence", delta.stop_reason
        elif delta.finish_reason is not None:
            self._stop_reason = "tool_use" if self._blocks.calls else "end_turn"
        return changes

    def _start(self) -> TypedEvent:
        """Nothing of the message is told yet, though the first step may have brought more."""
        message = self._message([], self._usage(0, 0)) | {"stop_reason": None, "stop_sequence": None}
        return TypedEvent("message_start", orjson.dumps({"type": "message_start", "message": message}))

    def _message(self, content: list[dict[str, object]], usage: Mapping[str, object]) -> dict[str, object]:
        return {
            "id": self.head.id,
            "type": "message",
            "role": "assistant",
            "model": self.head.model,
            "content": content,
            "stop_reason": self._stop_reason,
            "stop_sequence": self._stop_sequence,
            "usage": {**usage, "service_tier": "standard"},
        }

    def _usage(self, output_tokens: int, thinking_tokens: int) -> dict[str, object]:
        """`input_tokens` are those that were not found in the cache."""
        return {
            "input_tokens": self.head.prompt_tokens - self._cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": self._cached_tokens,
            "output_tokens": output_tokens,
            "output_tokens_details": {"thinking_tokens": thinking_tokens},
        }

    def _told(self, change: Change) -> TypedEvent:
        match change:
            case Opened(block):
                fresh = orjson.dumps(self._content(Block(block.index, block.kind, block.name)))
                return _event("content_block_start", block, b'"content_block":' + fresh)
            case Grown(block, text):
                type, member = _DELTAS[block.kind]
                delta = b'"delta":{"type":"%b","%b":%b}' % (type, member, orjson.dumps(text))
                return _event("content_block_delta", block, delta)
            case Closed(block):
                return TypedEvent(
                    "content_block_stop", b'{"type":"content_block_stop","index":%d}' % block.index
                )

    def _content(self, block: Block) -> dict[str, object]:
        match block.kind:
            case "text":
                return {"type": "text", "text": block.text}
            case "thought":
                return {"type": "thinking", "thinking": block.text, "signature": ""}
        id = f"toolu_{self.head.stem}_{block.index}"
        return {"type": "tool_use", "id": id, "name": block.name, "input": _input(block.text)}


def _event(name: str, block: Block, members: bytes) -> TypedEvent:
    return TypedEvent(name, b'{"type":"%b","index":%d,%b}' % (name.encode(), block.index, members))


def _input(arguments: str) -> dict[str, object]:
    """An object whatever the model wrote: one that was cut short, as `max_tokens` then says, is empty."""
    try:
        value: object = msgspec.json.decode(arguments)
        if isinstance(value, str):  # some models write their JSON as a text
            value = msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
