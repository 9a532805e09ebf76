"""Anthropic's error object as bytes. It has no member for a field's name, so that goes in front of the message."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_body(status: int, message: str, param: str | None, request_id: str) -> bytes:
    """`status` is that of the answer, or what it would have been had the stream not begun."""
    type = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    text = message if param is None else f"{param}: {message}"
    error = {"type": type, "message": text}
    return orjson.dumps({"type": "error", "error": error, "request_id": request_id})
