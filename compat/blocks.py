"""An output as a row of blocks: thoughts, texts and calls, in the order in which the model wrote them.

Responsible for: which block a piece of an output belongs to, and when one begins and ends. Wire formats whose
streams are typed events (Responses, Messages) write the changes down, each in its own words. At most one block is
open, the last. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from compat.openai.encoder import Delta
from compat.openai.reasoning import Thinking, Thought
from compat.openai.tools.calls import Arguments, CallBegun, Event, Text
from compat.openai.tools.parsers import Parser, Plain
from compat.openai.tools.reading import Reading

Kind = Literal["thought", "text", "call"]


class TypedEvent(NamedTuple):
    """One event of a stream: its name, and its data as JSON in one line."""

    name: str
    data: bytes


@dataclass(slots=True, eq=False)
class Block:
    """`name`: of a call, whose parts are its arguments."""

    index: int
    kind: Kind
    name: str = ""
    open: bool = True
    parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.parts)


@dataclass(frozen=True, slots=True)
class Opened:
    block: Block


@dataclass(frozen=True, slots=True)
class Grown:
    block: Block
    text: str


@dataclass(frozen=True, slots=True)
class Closed:
    block: Block


Change = Opened | Grown | Closed


class Blocks:
    """Owns the blocks of one output."""

    def __init__(
        self, parser: Parser, thinking: Thinking | None = None, most_calls: int | None = None
    ) -> None:
        """`thinking` None: thoughts are a part of the text. Calls beyond `most_calls` are left out."""
        self.blocks: list[Block] = []
        self.calls = 0
        self._reading = Reading(parser, thinking)
        self._most = most_calls
        self._skips = False  # the call that is being read is one too many
        self._plain = thinking is None and isinstance(parser, Plain)

    @property
    def thought_tokens(self) -> int:
        return self._reading.thought_tokens

    def lengthen(self, delta: Delta) -> Block | None:
        """The cheap way of the common step, which has some text and nothing to look for in it: the open block that
        has grown. None: nothing was done, and the step is for `feed`."""
        if not (self._plain and self.blocks and delta.text and delta.finish_reason is None):
            return None
        block = self.blocks[-1]  # a text: there is nothing else
        block.parts.append(delta.text)
        return block

    def feed(self, delta: Delta) -> list[Change]:
        """What a step changed; the last step closes what is open. An output of nothing is an empty text."""
        changes: list[Change] = []
        for event in self._reading.read(delta):
            self._take(event, changes)
        if delta.finish_reason is not None:
            if not self.blocks:
                self._open("text", changes)
            self._close(changes)
        return changes

    def _take(self, event: Event | Thought, changes: list[Change]) -> None:
        match event:
            case Thought(text):
                self._grow("thought", text, changes)
            case Text(text) if text:
                self._grow("text", text, changes)
            case CallBegun(_, name):
                self._skips = self._most is not None and self.calls >= self._most
                if not self._skips:
                    self.calls += 1
                    self._open("call", changes, name)
            case Arguments(_, text) if not self._skips and self.blocks and self.blocks[-1].kind == "call":
                self._extend(self.blocks[-1], text, changes)

    def _grow(self, kind: Kind, text: str, changes: list[Change]) -> None:
        last = self.blocks[-1] if self.blocks else None
        block = last if last is not None and last.kind == kind and last.open else self._open(kind, changes)
        self._extend(block, text, changes)

    def _extend(self, block: Block, text: str, changes: list[Change]) -> None:
        block.parts.append(text)
        changes.append(Grown(block, text))

    def _open(self, kind: Kind, changes: list[Change], name: str = "") -> Block:
        self._close(changes)
        block = Block(len(self.blocks), kind, name)
        self.blocks.append(block)
        changes.append(Opened(block))
        return block

    def _close(self, changes: list[Change]) -> None:
        if self.blocks and self.blocks[-1].open:
            self.blocks[-1].open = False
            changes.append(Closed(self.blocks[-1]))
