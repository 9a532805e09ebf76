"""Every error that a client can be answered with: one tree, each leaf with its status and OpenAI's code.

ApiError
├── BadRequest 400          (param names the field)
├── Unauthorized 401
├── NotFound 404 ─ ModelNotFound 404
├── TooSlow 408
├── Conflict 409
├── Gone 410
├── TooLarge 413
├── Unprocessable 422
├── DependencyFailed 424
├── TooManyRequests 429
├── EngineFailed 500
├── Unavailable 503
└── DeadlineExceeded 504
"""

from __future__ import annotations

from typing import ClassVar

from parrot.wire import ErrorInfo


class ApiError(Exception):
    """Carries what the answer needs: `status`, and OpenAI's error object as `info`."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.info = ErrorInfo(message=message, type=self.type, param=param, code=code or self.code)
        self.retry_after = retry_after


class BadRequest(ApiError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class Unauthorized(ApiError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class NotFound(ApiError):
    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class TooSlow(ApiError):
    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class Conflict(ApiError):
    status = 409
    type = "invalid_request_error"
    code = "conflict"


class Gone(ApiError):
    status = 410
    type = "invalid_request_error"
    code = "gone"


class TooLarge(ApiError):
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class Unprocessable(ApiError):
    status = 422
    type = "invalid_request_error"
    code = "unprocessable"


class DependencyFailed(ApiError):
    status = 424
    type = "invalid_request_error"
    code = "dependency_failed"


class TooManyRequests(ApiError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class EngineFailed(ApiError):
    status = 500
    type = "server_error"
    code = "engine_error"


class Unavailable(ApiError):
    status = 503
    type = "server_error"
    code = "unavailable"


class DeadlineExceeded(ApiError):
    status = 504
    type = "server_error"
    code = "deadline_exceeded"
