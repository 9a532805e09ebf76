"""What can go wrong, as a client sees it: one tree, whose ApiError branch mirrors the server's.

ParrotError
├── TemplateError           a function's docstring is no template (also a ValueError)
├── SessionClosed           the session was closed, or belongs to the process that forked this one
├── ConnectionError         no server at the URL, or it went away (also the builtin one)
├── VariableFailed          a variable will never have a value; carries the chain of causes
└── ApiError                the server's answer, with status, type, param and code
    ├── BadRequest 400
    ├── Unauthorized 401
    ├── NotFound 404 ─ ModelNotFound 404
    ├── Conflict 409
    ├── Gone 410
    ├── TooLarge 413
    ├── Unprocessable 422
    ├── DependencyFailed 424
    ├── TooManyRequests 429
    ├── EngineFailed 500
    └── Unavailable 503
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence

import msgspec

from parrot.wire import Cause, ErrorBody, ErrorInfo, VariableError


class ParrotError(Exception):
    """Everything this package raises on its own account."""


class TemplateError(ParrotError, ValueError):
    """A semantic function that can never be called: its docstring and its parameters do not fit."""


class SessionClosed(ParrotError):
    """The session takes no more calls and its variables get no more values."""


class ConnectionError(ParrotError, builtins.ConnectionError):
    """The message names the URL."""


class VariableFailed(ParrotError):
    """`name`, `code` and `message` say what failed; `causes` is the chain behind it, nearest first."""

    def __init__(self, name: str, message: str, code: str, causes: Sequence[Cause] = ()) -> None:
        super().__init__(_chain(name, message, causes))
        self.name = name
        self.message = message
        self.code = code
        self.causes = tuple(causes)

    @classmethod
    def of(cls, name: str, error: VariableError) -> VariableFailed:
        return cls(name, error.message, error.code, error.cause)


class ApiError(ParrotError):
    """`info` is the error object that the server sent."""

    def __init__(self, status: int, info: ErrorInfo) -> None:
        super().__init__(info.message if info.param is None else f"{info.message} (param: {info.param})")
        self.status = status
        self.info = info

    @property
    def code(self) -> str | None:
        return self.info.code

    @property
    def param(self) -> str | None:
        return self.info.param


class BadRequest(ApiError):
    pass


class Unauthorized(ApiError):
    pass


class NotFound(ApiError):
    pass


class ModelNotFound(NotFound):
    pass


class Conflict(ApiError):
    pass


class Gone(ApiError):
    pass


class TooLarge(ApiError):
    pass


class Unprocessable(ApiError):
    pass


class DependencyFailed(ApiError):
    pass


class TooManyRequests(ApiError):
    pass


class EngineFailed(ApiError):
    pass


class Unavailable(ApiError):
    pass


_BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthorized,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: TooLarge,
    422: Unprocessable,
    424: DependencyFailed,
    429: TooManyRequests,
    500: EngineFailed,
    503: Unavailable,
}


def api_error(status: int, body: bytes) -> ApiError:
    """The leaf for an answer. A body that is not ours (a proxy's page) becomes the message."""
    try:
        info = msgspec.json.decode(body, type=ErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        info = ErrorInfo(message=body[:500].decode(errors="replace") or f"HTTP status {status}")
    if info.code == "model_not_found":
        return ModelNotFound(status, info)
    return _BY_STATUS.get(status, ApiError)(status, info)


def _chain(name: str, message: str, causes: Sequence[Cause]) -> str:
    lines = [f"{name}: {message}"]
    for cause in causes:
        call = f" (call {cause.call})" if cause.call else ""
        lines.append(f"  because of {cause.variable}{call}: {cause.message}")
    return "\n".join(lines)
