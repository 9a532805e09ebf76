"""What holds for every request, whatever it asks for: an id, a tenant, and errors in one shape.

Responsible for: `X-Request-Id` (honoured when harmless, always echoed, in every line of the log), the API key,
mapping everything that a handler can raise to OpenAI's error object (or, on its paths, to Anthropic's), and telling
an observer how each request ended. Leaves to others: errors after a stream has begun (`server.http.sse`).
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from uuid import uuid4

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from compat.anthropic import errors as anthropic
from compat.openai.errors import error_body
from server import logs
from server.errors import ApiError, Unauthorized
from server.http.keys import ARRIVED, REQUEST_ID, TENANT
from server.tenant import ANONYMOUS, KeyRing, Tenant

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_OPEN = frozenset({"/health", "/health/ready", "/ping"})


CLIENT_LEFT = 499
"""What counts as the status of a request whose client has left before its answer; nginx's number."""

Observer = Callable[[str, str, int, float], None]
"""Method, route, status, seconds."""


def install(
    app: web.Application, keys: KeyRing, *, open_metrics: bool = False, observer: Observer | None = None
) -> None:
    """Puts the edge around every handler of `app`; to be called once, before the application starts."""
    if observer is not None:
        app.middlewares.append(_observed(observer))
    app.middlewares.append(_edge(keys, _OPEN | {"/metrics"} if open_metrics else _OPEN))
    app.on_response_prepare.append(_echo_request_id)


def harmless_id(given: str) -> bool:
    """Whether a client's own request id may appear in headers, logs and answers."""
    return _REQUEST_ID.fullmatch(given) is not None


def error_response(request: web.Request, error: ApiError) -> web.Response:
    info = error.info
    headers = {} if error.retry_after is None else {"Retry-After": str(max(1, round(error.retry_after)))}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return _response(request, error.status, info.message, info.type, info.param, info.code, headers)


def _observed(observer: Observer) -> Middleware:
    @web.middleware
    async def observed(request: web.Request, handler: Handler) -> web.StreamResponse:
        begun, status = time.perf_counter(), CLIENT_LEFT
        try:
            response = await handler(request)
            status = response.status
            return response
        except web.HTTPException as answer:
            status = answer.status
            raise
        finally:
            resource = request.match_info.route.resource
            route = "unknown" if resource is None else resource.canonical
            observer(request.method, route, status, time.perf_counter() - begun)

    return observed


def _edge(keys: KeyRing, open_paths: frozenset[str]) -> Middleware:
    @web.middleware
    async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[ARRIVED] = time.monotonic()
        request[REQUEST_ID] = _request_id(request.headers.get("X-Request-Id"))
        logs.REQUEST_ID.set(request[REQUEST_ID])
        try:
            request[TENANT] = ANONYMOUS if request.path in open_paths else _authenticate(request, keys)
            return await handler(request)
        except ApiError as error:
            return error_response(request, error)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return _aiohttp_error(request, error)
        except ConnectionResetError:
            raise  # the client has left; there is nobody to answer
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            return _response(request, 500, "Internal server error.", "server_error", None, "internal_error")

    return edge


async def _echo_request_id(request: web.Request, response: web.StreamResponse) -> None:
    id = request.get(REQUEST_ID) or _request_id(None)
    response.headers["X-Request-Id"] = id
    if _is_anthropic(request):
        response.headers["request-id"] = id


def _request_id(given: str | None) -> str:
    return given if given and harmless_id(given) else uuid4().hex


def _authenticate(request: web.Request, keys: KeyRing) -> Tenant:
    """OpenAI's clients send a bearer token, Anthropic's a header of its own, or both."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    bearer = key.strip() if scheme.lower() == "bearer" else None
    tenant = keys.tenant(bearer)
    if tenant is None and (other := request.headers.get("x-api-key")) is not None:
        tenant = keys.tenant(other)
    if tenant is None:
        raise Unauthorized("Incorrect or missing API key; send it as `Authorization: Bearer KEY`.")
    return tenant


def _is_anthropic(request: web.Request) -> bool:
    """Whether the answer is for a client that knows Anthropic's shape of an error."""
    return request.path == "/v1/messages" or request.path.startswith("/v1/messages/")


def _aiohttp_error(request: web.Request, error: web.HTTPException) -> web.Response:
    allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    message, code = f"{error.reason}.", "invalid_request"
    if error.status == 404:
        message, code = f"Unknown request URL: {request.method} {request.path}.", "unknown_url"
    elif error.status == 405:
        message, code = f"{request.method} is not allowed for {request.path}.", "method_not_allowed"
    elif error.status == 413:
        message, code = "The request body is too large.", "request_too_large"
    return _response(request, error.status, message, "invalid_request_error", None, code, allow)


def _response(
    request: web.Request,
    status: int,
    message: str,
    type: str,
    param: str | None,
    code: str | None,
    headers: dict[str, str] | None = None,
) -> web.Response:
    body = error_body(message, type, param, code)
    if _is_anthropic(request):
        body = anthropic.error_body(status, message, param, request[REQUEST_ID])
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)
