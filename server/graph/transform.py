"""Transforms: a pipeline of small, safe functions from text to text.

    strip | json_field('a.b[0]') | regex('([0-9]+) points', 1) | replace('a', 'b') | truncate(100)

Responsible for: the grammar, which is checked at submit, and applying a pipeline in bounded time and space to
text that nobody has checked. No code of a client's runs: paths are JMESPath's (`json_path`), regular expressions
RE2's (`pattern`). A step whose estimated cost no longer fits the pipeline's budget is not begun.

Inside quotes, `\\n`, `\\t`, `\\r`, `\\\\` and an escaped quote mean what they do in Python; any other
backslash stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from server.errors import BadRequest
from server.graph.json_path import json_field
from server.graph.pattern import regex
from server.graph.step import Argument, Step, TransformError, arguments, per_character

__all__ = ["MAX_TEXT", "Pipeline", "TransformError", "parse"]

MAX_SOURCE = 4096  # characters of a pipeline
MAX_STEPS = 32
MAX_SIZE = 8192  # of all steps together, see `Step.size`
MAX_TEXT = 4 * 2**20  # characters of any text between two steps
BUDGET_NS = 20e6
"""What one application may cost, because it runs on the event loop."""

_TOKEN = re.compile(
    r"""\s*+(?: (?P<name>[A-Za-z_][A-Za-z0-9_]*+) | (?P<int>\d{1,9}(?!\d))
              | '(?P<single>(?:[^'\\]|\\.)*+)' | "(?P<double>(?:[^"\\]|\\.)*+)" | (?P<mark>[|(),]) )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\([ntr'\"\\])")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}
_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)
_LINE = re.compile(r"\S[^\n\r\v\f\x1c-\x1e\x85\u2028\u2029]*")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Steps, applied from left to right."""

    steps: tuple[Step, ...]

    @property
    def size(self) -> int:
        """What it took to compile, see `Step.size`."""
        return sum(step.size for step in self.steps)

    def apply(self, text: str) -> str:
        """Raises TransformError that names the step."""
        spent = 0.0
        for step in self.steps:
            try:
                spent += step.cost(text)
                if spent > BUDGET_NS:
                    raise TransformError(f"a text of {len(text)} characters is too long for it")
                text = step.run(text)
            except TransformError as error:
                raise TransformError(f"{step.name}: {error}") from None
            except Exception as error:  # a library that fails in its own way costs this text, not the session
                raise TransformError(f"{step.name}: {type(error).__name__}") from error
            if len(text) > MAX_TEXT:
                raise TransformError(f"{step.name}: the result has more than {MAX_TEXT} characters")
        return text


def parse(source: str, *, param: str = "transforms") -> Pipeline:
    """Raises BadRequest that names `param`."""
    try:
        return _pipeline(source)
    except ValueError as error:
        raise BadRequest(f"{error}.", param=param, code="invalid_transform") from None


@lru_cache(maxsize=256)
def _pipeline(source: str) -> Pipeline:
    """Remembered: it is compiled when it is submitted, and wanted again when its text is there."""
    pipeline = Pipeline(tuple(_Parser(source).steps()))
    if pipeline.size > MAX_SIZE:
        raise ValueError("The pipeline's patterns are too large together")
    return pipeline


class _Parser:
    """One pass over the tokens, one token of look-ahead. Raises ValueError."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise ValueError(f"A pipeline may have at most {MAX_SOURCE} characters")
        self._source = source.rstrip()
        self._position = 0

    def steps(self) -> list[Step]:
        steps = [self._step()]
        while self._take("|"):
            steps.append(self._step())
            if len(steps) > MAX_STEPS:
                raise ValueError(f"A pipeline may have at most {MAX_STEPS} steps")
        if self._position < len(self._source):
            raise self._unexpected("'|' or the end")
        return steps

    def _step(self) -> Step:
        match = self._next()
        if match is None or match["name"] is None:
            raise self._unexpected("a transform")
        self._position = match.end()
        name = match["name"]
        if name not in _TRANSFORMS:
            raise ValueError(f"There is no transform {name[:40]!r}; there are {', '.join(_TRANSFORMS)}")
        return _TRANSFORMS[name](name, self._arguments())

    def _arguments(self) -> list[Argument]:
        if not self._take("("):
            return []
        arguments: list[Argument] = []
        while not self._take(")"):
            if arguments and not self._take(","):
                raise self._unexpected("',' or ')'")
            arguments.append(self._argument())
        return arguments

    def _argument(self) -> Argument:
        match = self._next()
        if match is None or match["name"] is not None or match["mark"] is not None:
            raise self._unexpected("a text in quotes or a number")
        self._position = match.end()
        if match["int"] is not None:
            return int(match["int"])
        quoted = match["single"] if match["single"] is not None else match["double"]
        return _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[1]), quoted)

    def _take(self, mark: str) -> bool:
        match = self._next()
        if match is None or match["mark"] != mark:
            return False
        self._position = match.end()
        return True

    def _next(self) -> re.Match[str] | None:
        return _TOKEN.match(self._source, self._position)

    def _unexpected(self, wanted: str) -> ValueError:
        found = self._source[self._position :].strip()[:20]
        where = f"{found!r} at character {self._position}" if found else "the end"
        return ValueError(f"Expected {wanted}, found {where}")


def _first_line(text: str) -> str:
    """The first line that has something in it, stripped."""
    line = _LINE.search(text)
    return "" if line is None else line[0].rstrip()


def _code_block(text: str) -> str:
    """What stands in the first fenced block."""
    fence = _FENCE.search(text)
    if fence is None:
        raise TransformError("there is no fenced code block")
    return fence[1].removesuffix("\n")


def _letters(text: str) -> float:
    return (4 if text.isascii() else 40) * len(text)


def _plain(
    run: Callable[[str], str], cost: Callable[[str], float], name: str, given: Sequence[Argument]
) -> Step:
    arguments(name, given)
    return Step(name, run, cost)


def _replace(name: str, given: Sequence[Argument]) -> Step:
    old, new = arguments(name, given, str, str)
    if not old:
        raise ValueError(f"{name}: the text to replace must not be empty")

    def replace(text: str) -> str:
        if len(text) + text.count(old) * (len(new) - len(old)) > MAX_TEXT:
            raise TransformError(f"the result has more than {MAX_TEXT} characters")
        return text.replace(old, new)

    return Step(name, replace, per_character(20))


def _truncate(name: str, given: Sequence[Argument]) -> Step:
    (length,) = arguments(name, given, int)
    return Step(name, lambda text: text[:length], per_character(1))


def _prefix(name: str, given: Sequence[Argument]) -> Step:
    (prefix,) = arguments(name, given, str)
    return Step(name, lambda text: prefix + text, per_character(1))


def _suffix(name: str, given: Sequence[Argument]) -> Step:
    (suffix,) = arguments(name, given, str)
    return Step(name, lambda text: text + suffix, per_character(1))


_TRANSFORMS: Mapping[str, Callable[[str, Sequence[Argument]], Step]] = {
    "strip": partial(_plain, str.strip, per_character(4)),
    "lower": partial(_plain, str.lower, _letters),
    "upper": partial(_plain, str.upper, _letters),
    "first_line": partial(_plain, _first_line, per_character(15)),
    "code_block": partial(_plain, _code_block, per_character(65)),
    "json_field": json_field,
    "regex": regex,
    "replace": _replace,
    "truncate": _truncate,
    "prefix": _prefix,
    "suffix": _suffix,
}
