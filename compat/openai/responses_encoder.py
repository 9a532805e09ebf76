"""A response as JSON: the events of its stream, or the whole of it at any time.

Responsible for: which items the blocks of an output are, the sequence of events that tells of them, their numbers
and ids, usage, and what a response is that has failed or was cancelled. Pure: text in, events out, no framing.

    created, in_progress
      output_item.added                                    for each item
        content_part.added, output_text.delta*, output_text.done, content_part.done         a message's
        content_part.added, reasoning_text.delta*, reasoning_text.done, content_part.done   a thought's
        function_call_arguments.delta*, function_call_arguments.done                        or a call's
      output_item.done
    completed | incomplete | failed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import orjson

from compat.blocks import Block, Blocks, Change, Closed, Grown, Kind, Opened, TypedEvent
from compat.openai.encoder import Delta
from compat.openai.logprobs import TokenBytes, chat_tokens

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]

_TYPES: Mapping[Kind, str] = {"text": "message", "thought": "reasoning", "call": "function_call"}
_TEXTS: Mapping[Kind, str] = {
    "text": "output_text",
    "thought": "reasoning_text",
    "call": "function_call_arguments",
}
_PREFIXES: Mapping[Kind, str] = {"text": "msg", "thought": "rs", "call": "fc"}

_TEXT_DELTA = b'{"type":"response.output_text.delta","sequence_number":%d,%b"delta":%b,"logprobs":[]}'
"""As `_grown` has it."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What a response begins with. `stem` makes its own id and those of its items; `echo` repeats the request."""

    stem: str
    created: int
    model: str
    prompt_tokens: int
    echo: Mapping[str, object]

    @property
    def id(self) -> str:
        return f"resp_{self.stem}"


class ResponseEncoder:
    """Owns the state of one response.

    A stream is `begin()`, `feed()` for every step, `end()`; one that is not streamed is `collect()` for every step
    and `end()`. `answer()` may be asked for at any time.
    """

    def __init__(
        self, head: ResponseHead, blocks: Blocks, *, logprobs: bool = False, bytes_of: TokenBytes
    ) -> None:
        self.head = head
        self.status: Status = "queued"
        self._blocks = blocks
        self._spoken: dict[
            int, list[bytes]
        ] = {}  # by block: tokens with their logprobs as a chat has them, as JSON
        self._logprobs = logprobs
        self._bytes_of = bytes_of
        self._pending: list[bytes] = []  # those whose text has not come out of the parser
        self._completed_at: int | None = None
        self._error: Mapping[str, object] | None = None
        self._output_tokens = self._cached_tokens = 0
        self._places: dict[int, bytes] = {}  # by block
        self._sequence = 0
        self._whole: bytes | None = None  # the answer, once it has ended: with logprobs it may have megabytes

    def begin(self) -> list[TypedEvent]:
        """Before the first step."""
        self.status = "in_progress"
        return [self._lifecycle("created"), self._lifecycle("in_progress")]

    def feed(self, delta: Delta) -> list[TypedEvent]:
        """The events of what a step added."""
        if not self._logprobs and (block := self._blocks.lengthen(delta)) is not None:
            self._output_tokens += len(delta.token_ids)
            number, self._sequence = self._sequence, self._sequence + 1
            data = _TEXT_DELTA % (number, self._place(block), orjson.dumps(delta.text))
            return [TypedEvent("response.output_text.delta", data)]
        return [event for change in self._advance(delta) for event in self._told(change)]

    def collect(self, delta: Delta) -> None:
        if not self._logprobs and self._blocks.lengthen(delta) is not None:
            self._output_tokens += len(delta.token_ids)
            return
        for change in self._advance(delta):
            self._tokens_of(change)

    def _advance(self, delta: Delta) -> list[Change]:
        if not self._output_tokens:
            self._cached_tokens = delta.cached_tokens
        self._output_tokens += len(delta.token_ids)
        if self._logprobs and delta.logprobs:
            self._pending += map(orjson.dumps, chat_tokens(delta.token_ids, delta.logprobs, self._bytes_of))
        if delta.finish_reason is None:
            self.status = "in_progress"
        else:
            self.status = "incomplete" if delta.finish_reason == "length" else "completed"
        return self._blocks.feed(delta)

    def _tokens_of(self, change: Change) -> Sequence[bytes]:
        """Those of a piece of text. What is written in a call or a thought has none to show."""
        if isinstance(change, Opened) and change.block.kind != "text":
            self._pending = []
        if not self._pending or not isinstance(change, Grown) or change.block.kind != "text":
            return ()
        tokens, self._pending = self._pending, []
        self._spoken.setdefault(change.block.index, []).extend(tokens)
        return tokens

    def end(self, now: int) -> list[TypedEvent]:
        """After the last step or a failure, in unix seconds."""
        self._completed_at = now if self.status == "completed" else None
        self._whole = self._written()
        return [self._lifecycle("failed" if self.status == "cancelled" else self.status)]

    def fail(self, message: str, code: str, *, cancelled: bool = False) -> None:
        """In the place of all steps that would have followed. `code` is one of OpenAI's for a response."""
        self._whole = None
        self.status = "cancelled" if cancelled else "failed"
        self._error = {"code": code, "message": message}

    def answer(self) -> bytes:
        return self._written() if self._whole is None else self._whole

    def _written(self) -> bytes:
        members = {
            "id": self.head.id,
            "object": "response",
            "created_at": self.head.created,
            "status": self.status,
            "completed_at": self._completed_at,
            "error": self._error,
            "incomplete_details": {"reason": "max_output_tokens"} if self.status == "incomplete" else None,
            "model": self.head.model,
            **self.head.echo,
            "usage": self._usage() if self.status not in ("queued", "in_progress") else None,
        }
        return b'%b,"output":%b}' % (msgspec.json.encode(members)[:-1], self._output())

    def turn(self) -> bytes:
        """The items as a list, as they come back in the next request's input: without what was said of tokens."""
        return self._output(spoken=False)

    def _output(self, spoken: bool = True) -> bytes:
        items = (self._item(block, self._status(block), spoken) for block in self._blocks.blocks)
        return _array([*items])

    def _usage(self) -> dict[str, object]:
        return {
            "input_tokens": self.head.prompt_tokens,
            "input_tokens_details": {"cached_tokens": self._cached_tokens, "cache_write_tokens": 0},
            "output_tokens": self._output_tokens,
            "output_tokens_details": {"reasoning_tokens": self._blocks.thought_tokens},
            "total_tokens": self.head.prompt_tokens + self._output_tokens,
        }

    def _lifecycle(self, name: str) -> TypedEvent:
        return self._event(f"response.{name}", b'"response":' + self.answer())

    def _event(self, name: str, members: bytes) -> TypedEvent:
        number, self._sequence = self._sequence, self._sequence + 1
        return TypedEvent(name, b'{"type":"%b","sequence_number":%d,%b}' % (name.encode(), number, members))

    def _told(self, change: Change) -> list[TypedEvent]:
        tokens = self._tokens_of(change)
        match change:
            case Opened(block):
                return self._opened(block)
            case Grown(block, text):
                return [self._grown(block, text, tokens)]
            case Closed(block):
                return self._closed(block)

    def _opened(self, block: Block) -> list[TypedEvent]:
        """A block may have grown since: what is added is empty all the same."""
        fresh = Block(block.index, block.kind, block.name)
        events = [self._event("response.output_item.added", self._indexed(fresh, "in_progress"))]
        if block.kind != "call":
            part = self._place(block) + b'"part":' + self._part(fresh)
            events.append(self._event("response.content_part.added", part))
        return events

    def _grown(self, block: Block, text: str, tokens: Sequence[bytes]) -> TypedEvent:
        members = self._place(block) + b'"delta":' + orjson.dumps(text)
        if block.kind == "text":
            members += b',"logprobs":' + _array(tokens)
        return self._event(f"response.{_TEXTS[block.kind]}.delta", members)

    def _closed(self, block: Block) -> list[TypedEvent]:
        place, text = self._place(block), orjson.dumps(block.text)
        name = f"response.{_TEXTS[block.kind]}.done"
        if block.kind == "call":
            members = b'%b"name":%b,"arguments":%b' % (place, orjson.dumps(block.name), text)
            events = [self._event(name, members)]
        else:
            members = place + b'"text":' + text
            if block.kind == "text":
                members += b',"logprobs":' + _array(self._spoken.get(block.index, ()))
            part = place + b'"part":' + self._part(block)
            events = [self._event(name, members), self._event("response.content_part.done", part)]
        done = self._indexed(block, self._status(block))
        return [*events, self._event("response.output_item.done", done)]

    def _status(self, block: Block) -> str:
        if block.open:
            return "in_progress" if self.status in ("queued", "in_progress") else "incomplete"
        cut = self.status == "incomplete" and block is self._blocks.blocks[-1]
        return "incomplete" if cut else "completed"

    def _item(self, block: Block, status: str, spoken: bool = True) -> bytes:
        head: dict[str, object] = {"id": self._id(block), "type": _TYPES[block.kind], "status": status}
        if block.kind == "call":
            call_id = f"call_{self.head.stem}_{block.index}"
            return orjson.dumps(head | {"call_id": call_id, "name": block.name, "arguments": block.text})
        own: dict[str, object] = {"role": "assistant"} if block.kind == "text" else {"summary": []}
        content = b"" if block.open and not block.parts else self._part(block, spoken)
        return b'%b,"content":[%b]}' % (orjson.dumps(head | own)[:-1], content)

    def _part(self, block: Block, spoken: bool = True) -> bytes:
        if block.kind == "thought":
            return orjson.dumps({"type": "reasoning_text", "text": block.text})
        empty = not spoken or (block.open and not block.parts)
        tokens = () if empty else self._spoken.get(block.index, ())
        text = orjson.dumps(block.text)
        return b'{"type":"output_text","text":%b,"annotations":[],"logprobs":%b}' % (text, _array(tokens))

    def _indexed(self, block: Block, status: str) -> bytes:
        return b'"output_index":%d,"item":%b' % (block.index, self._item(block, status))

    def _place(self, block: Block) -> bytes:
        if (place := self._places.get(block.index)) is None:
            part = b"" if block.kind == "call" else b'"content_index":0,'
            place = b'"item_id":"%b","output_index":%d,%b' % (self._id(block).encode(), block.index, part)
            self._places[block.index] = place
        return place

    def _id(self, block: Block) -> str:
        return f"{_PREFIXES[block.kind]}_{self.head.stem}_{block.index}"


def _array(values: Sequence[bytes]) -> bytes:
    return b"[%b]" % b",".join(values)
