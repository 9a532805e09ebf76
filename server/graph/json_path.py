"""The step `json_field('a.b[0]')`: a part of a JSON text, by a JMESPath.

Responsible for: paths without functions, multi-selects and free literals, which could build results of any size
or take any time, and the bound on what the rest costs. Without those a result is made of parts of the input,
each used once; and wherever a path goes over elements, each of its nodes there sees an element at most once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import jmespath
import msgspec

from server.graph.step import Argument, Step, TransformError, arguments

MAX_PATH = 256  # characters
MAX_JSON = 256 * 2**10  # characters
_NS_PER_CHARACTER = 20  # of decoding and encoding
_NS_PER_ELEMENT = 600
_NS_PER_VISIT = 1500  # of one node of a path at one element
_NODES = frozenset(
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
_LOOPS = frozenset(["projection", "value_projection", "flatten", "filter_projection"])
"""Nodes that go over all elements of what their first child finds."""


def json_field(name: str, given: Sequence[Argument]) -> Step:
    """Raises ValueError."""
    (path,) = arguments(name, given, str)
    if len(path) > MAX_PATH:
        raise ValueError(f"{name}: a path may have at most {MAX_PATH} characters")
    try:
        compiled = jmespath.compile(path)
    except (jmespath.exceptions.JMESPathError, RecursionError) as error:
        raise ValueError(f"{name}: {path!r} is not a JMESPath ({str(error).splitlines()[0]})") from None
    _check(name, compiled.parsed)
    visits = sum(looped for _, looped in _walk(compiled.parsed))
    return Step(name, partial(_search, compiled), partial(_cost, visits))


def _check(name: str, root: Mapping[str, Any]) -> None:
    parents = [(root, "")]
    while parents:
        node, parent = parents.pop()
        kind = node["type"]
        if kind not in _NODES or (kind == "literal" and parent != "comparator"):
            raise ValueError(f"{name}: {kind.replace('_', ' ')} is not supported in a path")
        parents += [(child, kind) for child in node["children"] if isinstance(child, dict)]


def _walk(root: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """Every node, and whether it is looked at for each element and not once."""
    waiting = [(root, False)]
    while waiting:
        node, looped = waiting.pop()
        loops = node["type"] in _LOOPS
        yield node, looped or loops
        for index, child in enumerate(node["children"]):
            if isinstance(child, dict):
                waiting.append((child, looped or (loops and index > 0)))


def _cost(visits: int, text: str) -> float:
    if len(text) > MAX_JSON:
        return math.inf
    elements = 1 + text.count(",") + text.count("[") + text.count("{")
    return _NS_PER_CHARACTER * len(text) + (_NS_PER_ELEMENT + _NS_PER_VISIT * visits) * elements


def _search(path: jmespath.parser.ParsedResult, text: str) -> str:
    """The field as it is when it is a string, else as JSON."""
    try:
        value = path.search(_decode(text))
        if isinstance(value, str):
            return value
        if value is not None:
            return msgspec.json.encode(value).decode()
    except (msgspec.DecodeError, UnicodeError):
        raise TransformError("the text is not JSON") from None
    except (jmespath.exceptions.JMESPathError, RecursionError, TypeError, ValueError):
        raise TransformError("the path cannot be applied to this JSON") from None
    raise TransformError("there is no such field")


@lru_cache(maxsize=4)
def _decode(text: str) -> Any:
    """Remembered, because a list is often taken apart by one call for each of its elements."""
    return _DECODER.decode(text)


def _number(text: str) -> float:
    """Python's own parser: msgspec's needs up to 8 microseconds for one like 1e300. Raises ValueError."""
    number = float(text)
    if math.isinf(number):
        raise ValueError("number out of range")
    return number


_DECODER = msgspec.json.Decoder(float_hook=_number)
