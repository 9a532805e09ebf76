"""A prompt as segments: constant text, and the places where semantic variables enter or leave it.

Responsible for: the grammar of placeholders (semantic_api.md) and nothing about what they are bound to.

    {{input:name}} {{ output : name }}   placeholders; a name is an identifier of at most 64 characters
    {{input:}} {{input:1x}} {{foo:x}}    errors that say where: no name, no identifier, an unknown kind
    {{anything else}} {{ {x} }} { }      literal text
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from server.errors import BadRequest

MAX_SEGMENTS = 4096
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_KIND = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*:")
_SHOWN = 60  # characters of a wrong placeholder in its error


class Constant(msgspec.Struct, frozen=True, array_like=True, tag="text", gc=False):
    text: str


class Input(msgspec.Struct, frozen=True, array_like=True, tag="input", gc=False):
    name: str


class Output(msgspec.Struct, frozen=True, array_like=True, tag="output", gc=False):
    name: str


Segment = Constant | Input | Output


def parse(text: str, *, param: str = "prompt", max_segments: int = MAX_SEGMENTS) -> tuple[Segment, ...]:
    """The segments of `text` in order; no constant is empty and no two are neighbours. Linear in its length.

    Raises BadRequest that names `param`, and for a wrong placeholder its position.
    """
    segments: list[Segment] = []
    written = 0
    for start, end in _braced(text):
        placeholder = _placeholder(text, start, end, param)
        if placeholder is None:
            continue
        if start > written:
            segments.append(Constant(text[written:start]))
        segments.append(placeholder)
        written = end
        if len(segments) > max_segments:
            break
    if written < len(text):
        segments.append(Constant(text[written:]))
    check_count(len(segments), max_segments, param)
    return tuple(segments)


def check_count(count: int, max_segments: int, param: str) -> None:
    """Raises BadRequest."""
    if count > max_segments:
        raise BadRequest(f"A template may have at most {max_segments} segments.", param=param)


def names(segments: Sequence[Segment], param: str) -> tuple[Mapping[str, None], Mapping[str, None]]:
    """The inputs and the outputs, in the order in which they first appear.

    A call has outputs, generates each of them once, and reads none of them: raises BadRequest.
    """
    inputs: dict[str, None] = {}
    outputs: dict[str, None] = {}
    for segment in segments:
        if isinstance(segment, Input):
            inputs[segment.name] = None
        elif isinstance(segment, Output):
            if segment.name in outputs:
                raise BadRequest(f"The output {segment.name!r} appears twice.", param=param)
            outputs[segment.name] = None
    if not outputs:
        raise BadRequest("A call needs at least one {{output:name}}.", param=param)
    if both := inputs.keys() & outputs.keys():
        raise BadRequest(f"{min(both)!r} is an input and an output of one call.", param=param)
    return inputs, outputs


def _braced(text: str) -> Iterator[tuple[int, int]]:
    """Where `{{...}}` without another `{{` inside starts and ends."""
    position = 0
    while (opened := text.find("{{", position)) >= 0 and (closed := text.find("}}", opened + 2)) >= 0:
        yield text.rfind("{{", opened, closed), closed + 2
        position = closed + 2


def _placeholder(text: str, start: int, end: int, param: str) -> Input | Output | None:
    kind = _KIND.match(text, start + 2, end - 2)
    if kind is None:
        return None
    if kind[1] not in ("input", "output"):
        raise _error(text, start, end, f"unknown kind {kind[1]!r}, use input or output", param)
    name = text[kind.end() : end - 2].strip()
    if not name:
        raise _error(text, start, end, "the name is missing", param)
    if not _NAME.fullmatch(name):
        raise _error(text, start, end, "a name is an identifier of at most 64 characters", param)
    return Input(name) if kind[1] == "input" else Output(name)


def _error(text: str, start: int, end: int, problem: str, param: str) -> BadRequest:
    shown = text[start : min(end, start + _SHOWN)]
    line = text.count("\n", 0, start) + 1
    column = start - text.rfind("\n", 0, start)
    where = f"at character {start} (line {line}, column {column})"
    return BadRequest(f"{shown!r} {where}: {problem}.", param=param, code="invalid_template")
