"""Values at random: of a type as msgspec sees it, and of no type at all.

Responsible for: a value that a decoder takes, in which anything may still be wrong (`of_type`), and one that fits
nowhere (`garbage`). All chance comes in as a `random.Random`. Texts carry marks like `@session@`, which whoever
sends them replaces by ids that exist.
"""

from __future__ import annotations

import math
import random
import string
from collections.abc import Callable
from typing import Any

from msgspec import inspect

MARKS = ("@session@", "@variable@", "@call@", "@program@", "@response@", "@spare@")
MAX_DEPTH = 6

_NUMBERS: tuple[float, ...] = (
    *(-1, 0, 1, 2, 3, 20, 21, 64, 65, 256, 300, 2048, 30_000, 100_000),
    *(2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**70), 10**40),
    *(0.0, -0.0, 0.5, 1.0, 2.0, 2.1, 1e-300, 5e-324, 1e300, -1e300, math.nan, math.inf, -math.inf),
)
_TEXTS = (
    *("", " ", "\n", "x", "Once upon a time", "user", "assistant", "system", "tool", "text", "auto", "none"),
    *(
        "a",
        "v",
        "b",
        "unknown",
        "var_",
        "latency",
        "throughput",
        "ttft_ms:1e999",
        "deadline_ms:0",
        "ttft_ms:",
    ),
    *(
        "\x00",
        "\ufeff",
        "\u202e",
        "\ud800",
        "\U0001f99c" * 50,
        "e\u0301" * 100,
        "\r\nX-Injected: 1",
        "../../x",
    ),
    *(
        "{{input:a}}",
        "{{output:a}}",
        "{{input:}}",
        "{{" * 400,
        "{{output:b}}" * 70,
        "Say {{input:v}} {{output:a}}",
    ),
    *("(a+)+$", "[", "\\p{L}{1,1000}", "(" * 500, "a{99999}", "(?=x)", "strip | regex('(a+)+$', 1)"),
    *("json_field('a[0].b')", "truncate(-1)", "replace('', 'x')", "strip|" * 200, "' OR 1=1 --", "%s%n%00"),
    *("http://127.0.0.1/", "data:text/plain;base64,eA==", "{% for x in range(10**9) %}{% endfor %}"),
    *('root ::= "x" root', "start: start", "<|im_start|>", "<|endoftext|>", "</s>"),
)
_KEYS = (
    "",
    "type",
    "name",
    "0",
    "-1",
    "99999999999999999999",
    "\x00",
    "$ref",
    "properties",
    "x" * 300,
    "a.b[0]",
)


def of_type(chance: random.Random, kind: inspect.Type, depth: int = 0) -> Any:
    """A value that decodes as `kind`, most of the time."""
    match kind:
        case inspect.StructType(fields=fields):
            return _struct(chance, fields, depth)
        case inspect.UnionType(types=types):
            return of_type(chance, chance.choice(types), depth)
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return [of_type(chance, item, depth + 1) for _ in range(_count(chance, depth))]
        case inspect.DictType(value_type=value):
            return {text(chance): of_type(chance, value, depth + 1) for _ in range(_count(chance, depth))}
        case inspect.LiteralType(values=values):
            return chance.choice(values)
        case inspect.NoneType():
            return None
        case inspect.BoolType():
            return chance.random() < 0.5
        case inspect.IntType():
            return chance.choice((0, 1, 2, 3, 5, 20, chance.randrange(-10, 1000), 2**40))
        case inspect.FloatType():
            return chance.choice((0, 0.5, 1.0, chance.uniform(-2, 3), 1e-9, 1e9))
        case inspect.StrType():
            return text(chance)
        case _:
            return garbage(chance, depth)


def _struct(chance: random.Random, fields: tuple[inspect.Field, ...], depth: int) -> dict[str, Any]:
    """All that is required and a few of the others."""
    share = 0.3 if depth else 0.1
    return {
        field.encode_name: of_type(chance, field.type, depth + 1)
        for field in fields
        if field.required or (depth < MAX_DEPTH and chance.random() < share)
    }


def _count(chance: random.Random, depth: int) -> int:
    return 0 if depth > MAX_DEPTH else chance.choice((0, 1, 1, 2, 3))


def garbage(chance: random.Random, depth: int = 0) -> Any:
    """Anything that JSON can say, and NaN."""
    makers: list[Callable[[], Any]] = [
        lambda: None,
        lambda: chance.random() < 0.5,
        lambda: chance.choice(_NUMBERS),
        lambda: text(chance),
        list,
        dict,
    ]
    if depth < MAX_DEPTH:
        makers += [
            lambda: [garbage(chance, depth + 1) for _ in range(chance.randrange(4))],
            lambda: {key(chance): garbage(chance, depth + 1) for _ in range(chance.randrange(4))},
        ]
    if depth == 0:
        makers += [lambda: _nested(chance), lambda: _many(chance)]
    return chance.choice(makers)()


def _many(chance: random.Random) -> list[Any]:
    """Of one thing, which is short: a body of a hundred megabytes would only keep its sender busy."""
    member = garbage(chance, MAX_DEPTH)
    if isinstance(member, str):
        member = member[:1000]
    return [member] * chance.choice((300, 3000))


def text(chance: random.Random) -> str:
    kind = chance.random()
    if kind < 0.7:
        return chance.choice(_TEXTS)
    if kind < 0.8:
        return chance.choice(MARKS)
    if kind < 0.98:
        return "".join(_character(chance) for _ in range(chance.randrange(20)))
    return _character(chance) * chance.choice((1000, 20_000))


def key(chance: random.Random) -> str:
    return chance.choice(_KEYS) if chance.random() < 0.7 else text(chance)


def _character(chance: random.Random) -> str:
    return chance.choice((chance.choice(string.printable), chr(chance.randrange(0xD800))))


def _nested(chance: random.Random) -> Any:
    value: Any = 0
    for _ in range(chance.choice((50, 500))):
        value = [value] if chance.random() < 0.5 else {"a": value}
    return value
