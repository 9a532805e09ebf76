"""The semantic-variable API: programs, sessions, calls, variables, and the paper's two operations.

Responsible for: decode -> service -> encode, the HTTP status of every outcome, and what a client's leaving
means: it cancels a program without `Idempotency-Key`, and never a variable.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from parrot import wire
from server.errors import BadRequest
from server.http import operations
from server.http.body import read, read_optional
from server.http.keys import SERVICE, TENANT
from server.http.known_query import flag, knowing_their_query
from server.http.sse import Stream, frame

if TYPE_CHECKING:
    from server.program import Events, Program
    from server.sessions import Sessions

DEFAULT_WAIT_S = 30.0
MAX_WAIT_S = 300.0
MAX_IDEMPOTENCY_KEY = 256
_GRAPHS = {"json": "application/json", "dot": "text/vnd.graphviz", "mermaid": "text/plain"}
_STATUS = {None: HTTPStatus.OK, "done": HTTPStatus.OK, "running": HTTPStatus.ACCEPTED}


def routes() -> list[web.RouteDef]:
    """What may be streamed has no HEAD: there is nothing to say of a stream without sending it."""
    session = "/v1/sessions/{session}"
    routes = [
        web.post("/v1/programs", create_program),
        web.get("/v1/programs/{program}", look_at_program, allow_head=False),
        web.delete("/v1/programs/{program}", cancel_program),
        web.post("/v1/sessions", create_session),
        web.get("/v1/sessions", list_sessions),
        web.get(session, get_session),
        web.delete(session, delete_session),
        web.post(session + "/calls", submit),
        web.get(session + "/calls/{call}", get_call),
        web.delete(session + "/calls/{call}", cancel_call),
        web.get(session + "/variables", list_variables),
        web.put(session + "/variables/{ref}", set_variable),
        web.get(session + "/variables/{ref}", get_variable, allow_head=False),
        web.post(session + "/get", get_many),
        web.get(session + "/graph", get_graph),
        web.get(session + "/trace", get_trace),
        web.post("/v1/submit", paper_submit),
        web.post("/v1/get", paper_get),
    ]
    return knowing_their_query(routes, operations.SEMANTIC)


async def create_program(request: web.Request) -> web.StreamResponse:
    body = await read(request, wire.ProgramRequest)
    wait = None if body.wait is None else _seconds(body.wait)
    key = _idempotency_key(request)
    sessions = _sessions(request)
    tenant = request[TENANT]
    applied = await sessions.transformed(tenant, body.session_id, body.calls, body.variables)
    program = sessions.start_program(tenant, body, key, applied)
    left = nullcontext() if key else _cancelled_with_its_client(sessions, program)
    if body.stream:
        return await _stream(request, sessions.program_events(program, wait), left)
    with left:
        return _values(await sessions.program_answer(program, wait))


async def look_at_program(request: web.Request) -> web.StreamResponse:
    sessions, program = _program(request)
    if flag(request, "stream"):
        return await _stream(request, sessions.program_events(program, _wait_if_given(request)))
    return _values(await sessions.program_answer(program, _wait(request, 0.0)))


async def cancel_program(request: web.Request) -> web.StreamResponse:
    """200 with what there is; a program that had ended stays as it was."""
    sessions, program = _program(request)
    sessions.cancel_program(program)
    return _values(await sessions.program_answer(program, 0.0), HTTPStatus.OK)


async def create_session(request: web.Request) -> web.StreamResponse:
    body = await read_optional(request, wire.SessionRequest, wire.SessionRequest())
    return _json(_sessions(request).create_session(request[TENANT], body), HTTPStatus.CREATED)


async def list_sessions(request: web.Request) -> web.StreamResponse:
    return _list(_sessions(request).list_sessions(request[TENANT]))


async def get_session(request: web.Request) -> web.StreamResponse:
    return _json(_sessions(request).get_session(request[TENANT], request.match_info["session"]))


async def delete_session(request: web.Request) -> web.StreamResponse:
    session = request.match_info["session"]
    _sessions(request).delete_session(request[TENANT], session)
    return _json(wire.Deleted(id=session, deleted=True))


class _Submit(wire.Call, frozen=True, kw_only=True):
    """One call, or several in `calls`."""

    calls: list[wire.Call] | None = None


async def submit(request: web.Request) -> web.StreamResponse:
    body = await read(request, _Submit)
    if body.calls is None:
        calls = [wire.Call(**{name: getattr(body, name) for name in wire.Call.__struct_fields__})]
    elif body.prompt is not None or body.messages is not None:
        raise BadRequest("A submit is one call or `calls`, not both.", param="calls")
    else:
        calls = body.calls
    sessions, tenant, session = _sessions(request), request[TENANT], request.match_info["session"]
    applied = await sessions.transformed(tenant, session, calls)
    return _json(sessions.submit(tenant, session, calls, applied), HTTPStatus.CREATED)


async def get_call(request: web.Request) -> web.StreamResponse:
    session, call = request.match_info["session"], request.match_info["call"]
    return _json(_sessions(request).get_call(request[TENANT], session, call))


async def cancel_call(request: web.Request) -> web.StreamResponse:
    session, call = request.match_info["session"], request.match_info["call"]
    return _json(_sessions(request).cancel_call(request[TENANT], session, call))


async def list_variables(request: web.Request) -> web.StreamResponse:
    return _list(_sessions(request).list_variables(request[TENANT], request.match_info["session"]))


async def set_variable(request: web.Request) -> web.StreamResponse:
    body = await read(request, wire.SetRequest)
    session, ref = request.match_info["session"], request.match_info["ref"]
    sessions, tenant = _sessions(request), request[TENANT]
    await sessions.prepare_variable(tenant, session, ref, body.value)
    info, created = sessions.set_variable(tenant, session, ref, body.value)
    return _json(info, HTTPStatus.CREATED if created else HTTPStatus.OK)


async def get_variable(request: web.Request) -> web.StreamResponse:
    wanted = request.query.get("criteria") or None
    sessions = _sessions(request)
    session, ref = request.match_info["session"], request.match_info["ref"]
    if flag(request, "stream"):
        return await _stream(
            request, sessions.stream_variable(request[TENANT], session, ref, wanted, _wait_if_given(request))
        )
    wait = _wait(request, DEFAULT_WAIT_S)
    return _variable(await sessions.get_variable(request[TENANT], session, ref, wanted, wait))


async def get_many(request: web.Request) -> web.StreamResponse:
    body = await read(request, wire.GetRequest)
    if body.wait is not None:
        _seconds(body.wait)
    sessions = _sessions(request)
    return _values(await sessions.get_many(request[TENANT], request.match_info["session"], body))


async def get_graph(request: web.Request) -> web.StreamResponse:
    sessions, session = _sessions(request), request.match_info["session"]
    match request.query.get("format") or "json":
        case ("json" | "dot" | "mermaid") as form:
            text = sessions.graph(request[TENANT], session, form)
            return web.Response(text=text, content_type=_GRAPHS[form], charset="utf-8")
        case other:
            raise BadRequest(f"{other[:50]!r} is not one of {', '.join(_GRAPHS)}.", param="format")


async def get_trace(request: web.Request) -> web.StreamResponse:
    trace = _sessions(request).trace(request[TENANT], request.match_info["session"])
    return web.Response(body=trace, content_type="application/json")


async def paper_submit(request: web.Request) -> web.StreamResponse:
    body = await read(request, wire.PaperSubmit)
    call = wire.Call(prompt=body.prompt, placeholders=body.placeholders)
    answer = _sessions(request).submit(request[TENANT], body.session_id, [call])
    handle = answer.calls[0]
    bindings = [
        wire.PaperBinding(name=name, in_out=output, semantic_var_id=variable)
        for output, variables in ((False, handle.inputs), (True, handle.outputs))
        for name, variable in variables.items()
    ]
    return _json(wire.PaperSubmitAnswer(calls=answer.calls, placeholders=bindings), HTTPStatus.CREATED)


async def paper_get(request: web.Request) -> web.StreamResponse:
    body = await read(request, wire.PaperGet)
    wait = DEFAULT_WAIT_S if body.wait is None else _seconds(body.wait)
    sessions, tenant = _sessions(request), request[TENANT]
    info = await sessions.get_variable(tenant, body.session_id, body.semantic_var_id, body.criteria, wait)
    return _variable(info)


def _sessions(request: web.Request) -> Sessions:
    return request.app[SERVICE].sessions


def _program(request: web.Request) -> tuple[Sessions, Program]:
    sessions = _sessions(request)
    return sessions, sessions.get_program(request[TENANT], request.match_info["program"])


@contextmanager
def _cancelled_with_its_client(sessions: Sessions, program: Program) -> Iterator[None]:
    """Not for a program with a key: that runs on, and a retry finds it."""
    try:
        yield
    except (asyncio.CancelledError, ConnectionResetError):
        sessions.cancel_program(program)
        raise


async def _stream(
    request: web.Request,
    told: AsyncIterator[Events],
    left: AbstractContextManager[None] = nullcontext(),  # noqa: B008 - it has no state
) -> web.StreamResponse:
    """`left` sees the ConnectionResetError of a client that has left; it ends here."""
    async with Stream(request) as stream:
        with left:
            async for events in told:
                await stream.write(b"".join(map(_frame, events)))
    return stream.response


def _frame(event: wire.ProgramEvent) -> bytes:
    return frame(msgspec.json.encode(event), str(event.__struct_config__.tag))


def _idempotency_key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not 0 < len(key) <= MAX_IDEMPOTENCY_KEY:
        raise BadRequest(f"1 to {MAX_IDEMPOTENCY_KEY} characters.", param="Idempotency-Key")
    return key


def _wait(request: web.Request, default: float) -> float:
    text = request.query.get("wait")
    if not text:
        return default
    try:
        return _seconds(float(text))
    except ValueError:
        raise BadRequest(f"{text[:50]!r} is not a number of seconds.", param="wait") from None


def _wait_if_given(request: web.Request) -> float | None:
    return _wait(request, 0.0) if request.query.get("wait") else None


def _seconds(wait: float) -> float:
    if not 0 <= wait <= MAX_WAIT_S:
        raise BadRequest(f"A wait is 0 to {MAX_WAIT_S:.0f} seconds.", param="wait")
    return wait


def _values(answer: wire.ValuesAnswer, status: int | None = None) -> web.Response:
    """What is not ready is in `pending` (202), what never will be in `errors` and `error` (424)."""
    return _json(answer, status or _STATUS.get(answer.status, HTTPStatus.FAILED_DEPENDENCY))


def _variable(info: wire.VariableInfo) -> web.Response:
    if info.state == "ready":
        return _json(info)
    if info.error is None:
        return _json(info, HTTPStatus.ACCEPTED)
    body = msgspec.to_builtins(info)
    body["error"]["param"] = None  # OpenAI's clients index all four members
    return _json(body, HTTPStatus.FAILED_DEPENDENCY)


def _list(data: list[wire.SessionInfo] | list[wire.VariableInfo]) -> web.Response:
    return _json(wire.ListAnswer(data=data))


def _json(body: Any, status: int = HTTPStatus.OK) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")
