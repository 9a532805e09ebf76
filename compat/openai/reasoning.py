"""Thinking apart from the answer: `<think>...</think>` at the start of an output, or from the start where the
prompt itself has opened it.

    output      <think>\\n  so it is \\n</think>\\n\\n  Yes.
    reasoning                so it is
    content                                            Yes.

Responsible for: which part is which, streamed, with no more held back than a marker and the blanks around it (they
belong to neither); and what `reasoning_effort` is to a chat template. Whatever way a text is cut, the parts are the
same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

ReasoningParser = Literal["auto", "none", "think"]

BEGIN, END = "<think>", "</think>"

CLOSED = f"{END}\n\n"
"""Put behind a prompt that has opened thinking where the output is bound to a format: it answers at once."""


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """How the outputs of one request think. `shown`: their reasoning is part of the answer."""

    opened: bool = False
    shown: bool = True


class _At(Enum):
    START = auto()  # nothing but blanks so far
    THOUGHT = auto()
    AFTER = auto()  # the thought is over, the answer has not begun
    ANSWER = auto()


class Splitter:
    """One output. `push` and `finish` return (reasoning, content)."""

    def __init__(self, opened: bool) -> None:
        """`opened`: the prompt ends within a thought."""
        self._at = _At.THOUGHT if opened else _At.START
        self._begun = False  # the thought has more than blanks
        self._held = ""

    @property
    def thinking(self) -> bool:
        return self._at is _At.THOUGHT

    def push(self, text: str) -> tuple[str, str]:
        reasoning = ""
        text, self._held = self._held + text, ""
        if self._at is _At.START:
            text = self._start(text)
        if self._at is _At.THOUGHT:
            reasoning, text = self._thought(text)
        if self._at is _At.AFTER and (text := text.lstrip()):
            self._at = _At.ANSWER
        return reasoning, text if self._at is _At.ANSWER else ""

    def finish(self) -> tuple[str, str]:
        """What was held back. A thought that did not end ends here, without the blanks at its end."""
        held, self._held = self._held, ""
        if self._at is _At.THOUGHT:
            held = held.rstrip()
            return held if self._begun else held.lstrip(), ""
        return "", held if self._at is _At.START else ""

    def _start(self, text: str) -> str:
        begun = text.lstrip()
        if begun.startswith(BEGIN):
            self._at = _At.THOUGHT
            return begun[len(BEGIN) :]
        if BEGIN.startswith(begun):  # also when there are only blanks
            self._held = text
            return ""
        self._at = _At.ANSWER
        return text

    def _thought(self, text: str) -> tuple[str, str]:
        """(reasoning, what follows the thought). Held back: blanks, and what may become the marker."""
        thought, found, after = text.partition(END)
        if found:
            self._at = _At.AFTER
            thought = thought.rstrip()
        else:
            shown = _sayable(thought)
            thought, self._held = thought[:shown], thought[shown:]
        if not self._begun:
            thought = thought.lstrip()
            self._begun = bool(thought)
        return thought, after


def enabled(parser: ReasoningParser, template: str) -> bool:
    """Whether the outputs of a model with this chat template are split."""
    return parser == "think" or (parser == "auto" and END in template)


def opened(prompt: str, continued: str | None = None) -> bool:
    """Whether a prompt ends within a thought; `continued` is the message that it ends with, when that goes on."""
    if continued is not None:
        return continued.rfind(BEGIN) > continued.rfind(END)
    return prompt.rstrip().endswith(BEGIN)


def template_arguments(effort: str | None, template: str) -> Mapping[str, bool | str] | None:
    """What a chat template is told of `reasoning_effort`; None: it knows of none, and `none` is all it can do."""
    if effort is None:
        return {}
    if "reasoning_effort" in template:
        return {"reasoning_effort": effort}
    if "enable_thinking" in template:
        return {"enable_thinking": effort != "none"}
    if "thinking is defined" in template:
        return {"thinking": effort != "none"}
    return {} if effort == "none" else None


def _sayable(text: str) -> int:
    """Up to where `text` is reasoning for sure."""
    for size in range(min(len(END) - 1, len(text)), 0, -1):
        if END.startswith(text[-size:]):
            return len(text[:-size].rstrip())
    return len(text.rstrip())
