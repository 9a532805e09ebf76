"""Reads calls out of JSON that is still being written: `{"name": "f", "arguments": {...}}`, or a list of these.

Responsible for: the name as soon as it is whole, and then the arguments' own text, piece by piece. Arguments that
come before their name are held back. Pure; text that is no JSON gives no call.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

_ARGUMENTS = ("arguments", "parameters")


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    index: int
    text: str


Event = Text | CallBegun | Arguments


class CallReader:
    """One or more call objects, with anything but braces between them. `index` counts the calls so far.

    depth 0: between objects; 1: in a call's object; more: in one of its values.
    """

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self.depth = 0
        self.seen = False  # an object has begun
        self._in_string = self._escaped = False
        self._reset()

    def _reset(self) -> None:
        self._key = self._member = ""
        self._expects_key = True
        self._name: str | None = None
        self._held = ""
        self._new = ""

    def push(self, text: str) -> list[Event]:
        events: list[Event] = []
        for character in text:
            self._step(character, events)
        self._release(events)
        return events

    def _step(self, character: str, events: list[Event]) -> None:
        if self._in_string:
            self._take(character)
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._in_string = False
            return
        if self.depth == 0:
            if character == "{":
                self.depth, self.seen = 1, True
                self._reset()
            return
        if self.depth == 1 and character in ":,}":
            self._punctuation(character, events)
            return
        if character == '"':
            self._in_string = True
        elif character in "{[":
            self.depth += 1
        elif character in "}]":
            self.depth -= 1
        self._take(character)

    def _punctuation(self, character: str, events: list[Event]) -> None:
        """Between a call's members."""
        if character == ":" and self._expects_key:
            self._key, self._member, self._expects_key = _string(self._member), "", False
            return
        if self._key == "name":
            self._name = _string(self._member)
            if self._name:
                events.append(CallBegun(self.index, self._name))
        self._member, self._key, self._expects_key = "", "", True
        if character == "}":
            self._release(events)
            self.depth = 0
            self.index += bool(self._name)

    def _take(self, character: str) -> None:
        if self._key in _ARGUMENTS and not self._expects_key:
            if self._held or self._new or not character.isspace() or self._member:
                self._new += character
                self._member = "x"
        else:
            self._member += character

    def _release(self, events: list[Event]) -> None:
        if not self._new and not self._held:
            return
        if self._name:
            events.append(Arguments(self.index, self._held + self._new))
            self._held = self._new = ""
        else:
            self._held, self._new = self._held + self._new, ""


def _string(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        return ""
    return value if isinstance(value, str) else ""
