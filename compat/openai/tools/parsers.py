"""How model families write calls, as small state machines: text in, events out, no more held than a marker.

    Hermes, Qwen   <tool_call>{"name": ..., "arguments": {...}}</tool_call>, as often as there are calls
    Mistral        [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]
    Llama 3        the whole output is {"name": ..., "parameters": {...}}, maybe after <|python_tag|>, parted by ;

Responsible for: which part of an output is text and which is a call. Written under a constraint (`demanded`), an
output is a list of calls or the arguments of the named one. Which parser is a model's is said by its chat template.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from compat.openai.tools.calls import Arguments, CallBegun, CallReader, Event, Text

Format = Literal["hermes", "mistral", "llama3"]


class Parser(Protocol):
    def push(self, text: str) -> list[Event]: ...
    def finish(self) -> list[Event]:
        """At the end of the output: what was held back."""
        ...


class Plain:
    """No calls: `tool_choice` none, or a model of an unknown family."""

    def push(self, text: str) -> list[Event]:
        return [Text(text)] if text else []

    def finish(self) -> list[Event]:
        return []


class Named:
    """The output is one function's arguments."""

    def __init__(self, name: str) -> None:
        self._name: str | None = name

    def push(self, text: str) -> list[Event]:
        events: list[Event] = []
        if text and self._name is not None:
            events.append(CallBegun(0, self._name))
            self._name = None
        return [*events, Arguments(0, text)] if text else events

    def finish(self) -> list[Event]:
        return []


class Listed:
    """The output is a list of calls."""

    def __init__(self) -> None:
        self._reader = CallReader()

    def push(self, text: str) -> list[Event]:
        return self._reader.push(text)

    def finish(self) -> list[Event]:
        return []


class Marked:
    """Text until `begin`, calls until `end` (None: until the output ends), and so on."""

    def __init__(self, begin: str, end: str | None) -> None:
        self._begin, self._end = begin, end
        self._reader: CallReader | None = None
        self._calls = 0
        self._held = ""

    def push(self, text: str) -> list[Event]:
        events: list[Event] = []
        text, self._held = self._held + text, ""
        while text:
            text = self._outside(text, events) if self._reader is None else self._inside(text, events)
        return events

    def finish(self) -> list[Event]:
        text, self._held = self._held, ""
        return [Text(text)] if text and self._reader is None else []

    def _outside(self, text: str, events: list[Event]) -> str:
        before, found, after = text.partition(self._begin)
        if found:
            self._reader = CallReader(self._calls)
        else:
            before, self._held = _split(text, self._begin)
        if before.strip() or (before and not found and not self._calls):
            events.append(Text(before))
        return after

    def _inside(self, text: str, events: list[Event]) -> str:
        assert self._reader is not None
        if self._end is None:
            events += self._reader.push(text)
            return ""
        before, found, after = text.partition(self._end)
        if not found:
            before, self._held = _split(text, self._end)
        events += self._reader.push(before)
        if found:
            self._calls, self._reader = self._reader.index, None
        return after


class Whole:
    """Llama 3: an output that begins like a call is one; any other is text."""

    _TAG = "<|python_tag|>"

    def __init__(self) -> None:
        self._start = ""
        self._inner: Parser | None = None

    def push(self, text: str) -> list[Event]:
        if self._inner is not None:
            return self._inner.push(text)
        self._start += text
        start = self._start.lstrip()
        if not start or (len(start) < len(self._TAG) and self._TAG.startswith(start)):
            return []
        start = start.removeprefix(self._TAG)
        self._inner = Listed() if start.startswith("{") or start != self._start.lstrip() else Plain()
        return self._inner.push(start if isinstance(self._inner, Listed) else self._start)

    def finish(self) -> list[Event]:
        return [Text(self._start)] if self._inner is None and self._start else []


PARSERS: dict[Format, Callable[[], Parser]] = {
    "hermes": lambda: Marked("<tool_call>", "</tool_call>"),
    "mistral": lambda: Marked("[TOOL_CALLS]", None),
    "llama3": Whole,
}


def format_of(template: str) -> Format | None:
    """Which family a chat template is of; None: it knows nothing of tools."""
    if "<tool_call>" in template:
        return "hermes"
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "<|python_tag|>" in template or "ipython" in template:
        return "llama3"
    return None


def _split(text: str, marker: str) -> tuple[str, str]:
    """What can be said already, and the end of `text` that may be the start of `marker`."""
    for size in range(min(len(marker) - 1, len(text)), 0, -1):
        if marker.startswith(text[-size:]):
            return text[:-size], text[-size:]
    return text, ""
