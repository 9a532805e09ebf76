"""Transforms: a pipeline of small, safe functions from text to text.

    strip | json_field('a.b[0]') | regex('([0-9]+) points', 1) | replace('a', 'b') | truncate(100)

Responsible for: the grammar, which is checked at submit, and applying a pipeline in bounded time and space to
text that nobody has checked. No code of a client's runs: regular expressions are RE2's, paths are JMESPath's
without functions and multi-selects (those could build results of any size), and every size has a cap.

Inside quotes, `\\n`, `\\t`, `\\r`, `\\\\` and an escaped quote mean what they do in Python; any other
backslash stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jmespath
import msgspec
import re2

from server.errors import BadRequest

MAX_SOURCE = 4096  # characters of a pipeline
MAX_STEPS = 32
MAX_PATH = 256  # characters of a JMESPath
MAX_PATTERN = 1024  # characters of a regular expression
MAX_TEXT = 4 * 2**20  # characters of any text between two steps
_RE2_MEMORY = 2**20

Argument = str | int
Step = Callable[[str], str]

_TOKEN = re.compile(
    r"""\s*+(?: (?P<name>[A-Za-z_][A-Za-z0-9_]*+) | (?P<int>\d{1,9}(?!\d))
              | '(?P<single>(?:[^'\\]|\\.)*+)' | "(?P<double>(?:[^"\\]|\\.)*+)" | (?P<mark>[|(),]) )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\([ntr'\"\\])")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}
_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)


class TransformError(Exception):
    """This text cannot be transformed; the message is the variable's error."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Steps by their names, for the error's sake."""

    steps: tuple[tuple[str, Step], ...]

    def apply(self, text: str) -> str:
        """Raises TransformError that names the step."""
        for name, step in self.steps:
            try:
                text = step(text)
            except TransformError as error:
                raise TransformError(f"{name}: {error}") from None
            except (
                Exception
            ) as error:  # a library that fails in a way of its own costs this text, not the session
                raise TransformError(f"{name}: {type(error).__name__}") from error
            if len(text) > MAX_TEXT:
                raise TransformError(f"{name}: the result has more than {MAX_TEXT} characters")
        return text


def parse(source: str, *, param: str = "transforms") -> Pipeline:
    """Raises BadRequest that names `param`."""
    try:
        return Pipeline(tuple(_Parser(source).steps()))
    except ValueError as error:
        raise BadRequest(f"{error}.", param=param, code="invalid_transform") from None


class _Parser:
    """One pass over the tokens, one token of look-ahead. Raises ValueError."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise ValueError(f"A pipeline may have at most {MAX_SOURCE} characters")
        self._source = source.rstrip()
        self._position = 0

    def steps(self) -> list[tuple[str, Step]]:
        steps = [self._step()]
        while self._take("|"):
            steps.append(self._step())
            if len(steps) > MAX_STEPS:
                raise ValueError(f"A pipeline may have at most {MAX_STEPS} steps")
        if self._position < len(self._source):
            raise self._unexpected("'|' or the end")
        return steps

    def _step(self) -> tuple[str, Step]:
        match = self._next()
        if match is None or match["name"] is None:
            raise self._unexpected("a transform")
        self._position = match.end()
        name = match["name"]
        if name not in _TRANSFORMS:
            raise ValueError(f"There is no transform {name[:40]!r}; there are {', '.join(_TRANSFORMS)}")
        return name, _TRANSFORMS[name](name, self._arguments())

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


def _no_arguments(step: Step, name: str, arguments: list[Argument]) -> Step:
    _arguments(name, arguments)
    return step


def _first_line(text: str) -> str:
    """The first line that has something in it, stripped."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _code_block(text: str) -> str:
    """What stands in the first fenced block."""
    fence = _FENCE.search(text)
    if fence is None:
        raise TransformError("there is no fenced code block")
    return fence[1].removesuffix("\n")


def _json_field(name: str, arguments: list[Argument]) -> Step:
    (path,) = _arguments(name, arguments, str)
    if len(path) > MAX_PATH:
        raise ValueError(f"{name}: a path may have at most {MAX_PATH} characters")
    try:
        compiled = jmespath.compile(path)
    except (jmespath.exceptions.JMESPathError, RecursionError) as error:
        raise ValueError(f"{name}: {path!r} is not a JMESPath ({str(error).splitlines()[0]})") from None
    _check_path(name, compiled.parsed)
    return partial(_search_json, compiled)


_PATH_NODES = frozenset(
    [
        "field",
        "subexpression",
        "index",
        "index_expression",
        "slice",
        "current",
        "identity",
        "projection",
        "value_projection",
        "flatten",
        "filter_projection",
        "comparator",
        "literal",
        "not_expression",
        "and_expression",
        "or_expression",
        "pipe",
    ]
)


def _check_path(name: str, root: Mapping[str, Any]) -> None:
    """Without the refused nodes a result is made of parts of the input, each used once."""
    nodes = [(root, False)]
    while nodes:
        node, compared = nodes.pop()
        kind = node["type"]
        if kind not in _PATH_NODES or (kind == "literal" and not compared):
            raise ValueError(f"{name}: {kind.replace('_', ' ')} is not supported in a path")
        nodes += [(child, kind == "comparator") for child in node["children"] if isinstance(child, dict)]


def _search_json(path: jmespath.parser.ParsedResult, text: str) -> str:
    """The field as it is when it is a string, else as JSON."""
    try:
        value = path.search(msgspec.json.decode(text))
        if isinstance(value, str):
            return value
        if value is not None:
            return msgspec.json.encode(value).decode()
    except (msgspec.DecodeError, UnicodeError):
        raise TransformError("the text is not JSON") from None
    except (jmespath.exceptions.JMESPathError, RecursionError, TypeError, ValueError):
        raise TransformError("the path cannot be applied to this JSON") from None
    raise TransformError("there is no such field")


def _regex(name: str, arguments: list[Argument]) -> Step:
    pattern, group = [*arguments, 0][:2] if arguments else ("", 0)
    if len(arguments) not in (1, 2) or not isinstance(pattern, str):
        raise ValueError(f"{name}: give a pattern in quotes, and a group if it is not the whole match")
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"{name}: a pattern may have at most {MAX_PATTERN} characters")
    options = re2.Options()
    options.max_mem = _RE2_MEMORY
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options=options)
    except (re2.error, UnicodeError) as error:
        raise ValueError(f"{name}: {_reason(error)}") from None
    if group not in compiled.groupindex and not (isinstance(group, int) and group <= compiled.groups):
        raise ValueError(f"{name}: the pattern has no group {group!r}")
    return partial(_search, compiled, group)


def _reason(error: Exception) -> str:
    reason = error.args[0] if error.args else error
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)


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


def _replace(name: str, arguments: list[Argument]) -> Step:
    old, new = _arguments(name, arguments, str, str)
    if not old:
        raise ValueError(f"{name}: the text to replace must not be empty")

    def replace(text: str) -> str:
        if len(text) + text.count(old) * (len(new) - len(old)) > MAX_TEXT:
            raise TransformError(f"the result has more than {MAX_TEXT} characters")
        return text.replace(old, new)

    return replace


def _truncate(name: str, arguments: list[Argument]) -> Step:
    (length,) = _arguments(name, arguments, int)
    return lambda text: text[:length]


def _prefix(name: str, arguments: list[Argument]) -> Step:
    (prefix,) = _arguments(name, arguments, str)
    return lambda text: prefix + text


def _suffix(name: str, arguments: list[Argument]) -> Step:
    (suffix,) = _arguments(name, arguments, str)
    return lambda text: text + suffix


def _arguments(name: str, given: list[Argument], *types: type) -> list[Any]:
    if [type(argument) for argument in given] != list(types):
        kinds = " and ".join("a number" if type_ is int else "a text in quotes" for type_ in types)
        raise ValueError(f"{name}: takes {kinds or 'no arguments'}")
    return given


_TRANSFORMS: Mapping[str, Callable[[str, list[Argument]], Step]] = {
    "strip": partial(_no_arguments, str.strip),
    "lower": partial(_no_arguments, str.lower),
    "upper": partial(_no_arguments, str.upper),
    "first_line": partial(_no_arguments, _first_line),
    "code_block": partial(_no_arguments, _code_block),
    "json_field": _json_field,
    "regex": _regex,
    "replace": _replace,
    "truncate": _truncate,
    "prefix": _prefix,
    "suffix": _suffix,
}
