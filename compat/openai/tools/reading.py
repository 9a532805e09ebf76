"""One output as it is read: thoughts apart from the answer, and in the answer calls apart from text.

Responsible for: the order of the two parsers, their end, and how many tokens were spent on thoughts. What a format
makes of the pieces is its encoder's business.
"""

from __future__ import annotations

from compat.openai.encoder import Delta
from compat.openai.reasoning import Splitter, Thinking, Thought
from compat.openai.tools.calls import Event
from compat.openai.tools.parsers import Parser


class Reading:
    """Owns the state of both parsers, and `thought_tokens`."""

    def __init__(self, parser: Parser, thinking: Thinking | None = None) -> None:
        """`thinking` None: thoughts are a part of the text as any other."""
        self.thought_tokens = 0
        self._parser = parser
        self._splitter = None if thinking is None else Splitter(thinking.opened)
        self._shows_thoughts = thinking is not None and thinking.shown

    def read(self, delta: Delta) -> list[Event | Thought]:
        """What a step brought; the last one also what was held back."""
        events: list[Event | Thought] = []
        text, ended = delta.text, delta.finish_reason is not None
        if self._splitter is not None:
            thought, text = self._split(self._splitter, delta)
            if thought and self._shows_thoughts:
                events.append(Thought(thought))
        events += self._parser.push(text)
        if ended:
            events += self._parser.finish()
        return events

    def _split(self, splitter: Splitter, delta: Delta) -> tuple[str, str]:
        """(thought, answer). The tokens of a step in which a thought ends count as its own."""
        before = splitter.thinking
        thought, text = splitter.push(delta.text)
        if before or splitter.thinking:
            self.thought_tokens += len(delta.token_ids)
        if delta.finish_reason is not None:
            more, rest = splitter.finish()
            thought, text = thought + more, text + rest
        return thought, text
