"""Docstrings as prompt templates: the text the server gets, and the names in it.

Responsible for: indentation, and finding `{{input:x}}` and `{{output:y}}` well enough to bind arguments. The
server parses the template with its full rules and has the last word on it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from parrot.errors import TemplateError

_PLACEHOLDER = re.compile(r"\{\{\s*(?P<kind>input|output)\s*:(?P<name>[^{}]*)\}\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Placeholders:
    """The names in a prompt, each once, in the order in which they appear."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def placeholders(*texts: str) -> Placeholders:
    """Of one prompt, or of a conversation's contents in order. Raises TemplateError."""
    inputs: dict[str, None] = {}
    outputs: dict[str, None] = {}
    for text in texts:
        for match in _PLACEHOLDER.finditer(text):
            name = match["name"].strip()
            if not _NAME.fullmatch(name):
                raise TemplateError(
                    f"{match[0]!r}: a placeholder's name must be an identifier of at most 64 characters"
                )
            if match["kind"] == "input":
                inputs[name] = None
            elif name in outputs:
                raise TemplateError(f"the output {name!r} appears twice")
            else:
                outputs[name] = None
    if both := inputs.keys() & outputs.keys():
        raise TemplateError(f"{min(both)!r} is an input and an output of one call")
    return Placeholders(tuple(inputs), tuple(outputs))


def clean(docstring: str) -> str:
    """Removes the indentation as `inspect.cleandoc` does, but leaves tabs inside of a line as they are."""
    lines = [_expand_indentation(line) for line in docstring.split("\n")]
    margins = [len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()]
    margin = min(margins, default=0)
    lines = [lines[0].lstrip(), *(line[margin:] if margins else line for line in lines[1:])]
    while lines and not lines[-1]:
        lines.pop()
    while lines and not lines[0]:
        lines.pop(0)
    return "\n".join(lines)


def _expand_indentation(line: str) -> str:
    text = line.lstrip(" \t")
    return line[: len(line) - len(text)].expandtabs() + text
