"""How many values a JSON body may have, told before it is decoded.

Responsible for: a bound on what a decoder would make of a body. It makes an object of every value, all of them
before anybody can look at one, and holds the event loop meanwhile: 16 MiB of `{"role":""}` take it 0.6 s, of `[]`
two seconds. What stands within a text is no value, however many braces it has. Pure.
"""

from __future__ import annotations

from server.errors import TooLarge

SMALL = 2**18
"""Bytes that cannot hold enough to matter."""

MAX_CONTAINERS = 2**15
MAX_VALUES = 2**18
"""Prompts of 1,024 ids for 256 sequences."""


def check_values(data: bytes, param: str | None = None) -> None:
    """Raises TooLarge, of a body that is mostly values after a look at its beginning."""
    size = SMALL
    while size < len(data):
        size *= 2
        beginning = data[:size]
        if not _few(beginning) and not _few(_outside_texts(beginning)):
            raise TooLarge(
                f"There are more than {MAX_CONTAINERS} JSON objects and arrays, or {MAX_VALUES} values.",
                param=param,
                code="too_many_values",
            )


def _few(data: bytes) -> bool:
    return data.count(b"{") + data.count(b"[") <= MAX_CONTAINERS and data.count(b",") <= MAX_VALUES


def _outside_texts(data: bytes) -> bytes:
    """Up to the first byte that is no JSON, which is as far as a decoder comes."""
    return b"".join(data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
