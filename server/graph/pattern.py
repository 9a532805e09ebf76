"""The step `regex('([0-9]+) points', 1)`: what a regular expression finds, or one of its groups.

Responsible for: patterns in RE2's syntax, and the bound on what they cost. RE2 never backtracks, but its time is
the text's length times the size of the compiled program, in which `(a|b){1000}` stands a thousand times, and its
slowest engine copies the groups' positions as it goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import re2

from server.graph.step import Argument, Step, TransformError

MAX_PATTERN = 1024  # characters
MAX_PROGRAM = 4096  # instructions
_BYTES_PER_INSTRUCTION = 64  # RE2 gives a program a quarter of max_mem, at 16 bytes an instruction
_NS_PER_INSTRUCTION = 15.0  # and byte of the text
_GROUPS = 25  # so many groups double it


def regex(name: str, given: Sequence[Argument]) -> Step:
    """Raises ValueError."""
    pattern, group = [*given, 0][:2] if given else ("", 0)
    if len(given) not in (1, 2) or not isinstance(pattern, str):
        raise ValueError(f"{name}: give a pattern in quotes, and a group if it is not the whole match")
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"{name}: a pattern may have at most {MAX_PATTERN} characters")
    compiled = _compile(name, pattern)
    if group not in compiled.groupindex and not (isinstance(group, int) and group <= compiled.groups):
        raise ValueError(f"{name}: the pattern has no group {group!r}")
    per_byte = _NS_PER_INSTRUCTION * compiled.programsize * (1 + compiled.groups / _GROUPS)
    return Step(name, partial(_search, compiled, group), partial(_cost, per_byte), size=compiled.programsize)


def _compile(name: str, pattern: str) -> Any:
    options = re2.Options()
    options.max_mem = 2 * MAX_PROGRAM * _BYTES_PER_INSTRUCTION
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options=options)
    except (re2.error, UnicodeError) as error:
        raise ValueError(f"{name}: {_reason(error)}") from None
    if compiled.programsize > MAX_PROGRAM:
        raise ValueError(f"{name}: pattern too large: its repetitions or classes stand for too much")
    return compiled


def _reason(error: Exception) -> str:
    reason = error.args[0] if error.args else error
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)


def _cost(per_byte: float, text: str) -> float:
    return per_byte * (len(text) if text.isascii() else len(text.encode("utf-8", "replace")))


def _search(pattern: Any, group: Argument, text: str) -> str:
    try:
        match = pattern.search(text)
    except (re2.error, UnicodeError):
        raise TransformError("the text cannot be searched") from None
    if match is None:
        raise TransformError("the pattern is not found")
    found: str | None = match.group(group)
    if found is None:
        raise TransformError(f"group {group!r} is not in the match")
    return found
