"""What is wrong with a request, and OpenAI's error object as bytes.

All four members of the object are always there: clients index them without asking.
"""

from __future__ import annotations

import orjson


def error_body(message: str, type: str, param: str | None, code: str | None) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": type, "param": param, "code": code}})


class InvalidField(ValueError):
    """A field whose value cannot be served; answered with 400."""

    def __init__(self, message: str, param: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param = param
        self.code = code
