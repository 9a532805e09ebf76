"""OpenAI's error object as bytes. All four members are always there: clients index them without asking."""

from __future__ import annotations

import orjson


def error_body(message: str, type: str, param: str | None, code: str | None) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": type, "param": param, "code": code}})
