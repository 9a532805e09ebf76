"""A chat call that is bound to a session's variables: submitted as a call of the session, answered as a chat.

Responsible for: what the request is in the extension API's terms, errors that name the client's own field, and text
that becomes chunks. The call waits in the graph like any other, so a program that is written with an OpenAI client
becomes one call by call. A client that leaves does not cancel it: others may read the variable, unless nobody has
been told of its session.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

import msgspec
from aiohttp import web

from compat.openai import variables
from compat.openai.binding import Binding, Told
from compat.openai.chat import ChatRequest
from compat.openai.common import GenerationFields, Usage
from compat.openai.variables import BoundChatEncoder
from engine.types import TokenLogprobs
from parrot import wire
from server.errors import ApiError, DependencyFailed, Gone
from server.http.keys import SERVICE, TENANT
from server.http.live import LiveRequests
from server.http.openai_job import chat_messages, grammar_of, head_of, invalid_fields, shown_of
from server.http.semantic import MAX_WAIT_S
from server.http.sse import Stream, data_frames
from server.program import Events
from server.session.plan import DEFAULT_MAX_TOKENS
from server.sessions import Sessions
from server.tenant import Tenant

FOREVER_S = 7 * 86_400.0
"""Longer than a session lives without being used; the client or its session ends a wait before that."""

_SAMPLING = tuple(
    sorted({*wire.Sampling.__struct_fields__} & {*GenerationFields.__struct_fields__} - {"n", "max_tokens"})
)


@dataclass(frozen=True, slots=True)
class _Delta:
    """`compat.openai.encoder.Delta` of text alone."""

    text: str = ""
    finish_reason: str | None = None
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    stop_reason: str | int | None = None
    cached_tokens: int = 0
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


async def answer(request: web.Request, live: LiveRequests, id: str, body: ChatRequest) -> web.StreamResponse:
    """`id`: by which another request can cancel it, and with it the call."""
    service, tenant = request.app[SERVICE], request[TENANT]
    assert body.parrot is not None
    await _check(body)
    card = service.resolve_model(body.model)
    bound = _submitted(service.sessions, tenant, body, body.parrot)
    encoder = BoundChatEncoder(
        head_of(f"chatcmpl-{id}", body, card), shown_of(body, logprobs=False), bound.told
    )
    seconds = FOREVER_S if body.parrot.seconds is None else body.parrot.seconds
    if body.stream:
        return await _stream(request, live, id, bound, encoder, seconds)
    info = bound.variable()
    if seconds:
        async with _running(live, id, bound, told=lambda: False):
            info = await bound.value(seconds)
    encoder.ended(bound.told_now(info), bound.usage())
    encoder.collect(0, _Delta(_value(info), bound.reason()))
    return web.Response(body=encoder.answer(), content_type="application/json")


@dataclass(frozen=True, slots=True)
class _Bound:
    """A call that was submitted for a chat. `alone`: in a session that was made for it."""

    sessions: Sessions
    tenant: Tenant
    told: Told
    criteria: str
    limit: int
    alone: bool

    async def value(self, seconds: float) -> wire.VariableInfo:
        told = self.told
        return await self.sessions.get_variable(
            self.tenant, told.session_id, told.variable_id, self.criteria, seconds
        )

    def events(self, seconds: float) -> AsyncIterator[Events]:
        told = self.told
        return self.sessions.stream_variable(
            self.tenant, told.session_id, told.variable_id, self.criteria, seconds
        )

    def cancel(self) -> None:
        with suppress(ApiError):
            self.sessions.cancel_call(self.tenant, self.told.session_id, self.told.call_id)

    def forget(self) -> None:
        with suppress(ApiError):
            self.sessions.delete_session(self.tenant, self.told.session_id)

    def variable(self) -> wire.VariableInfo:
        return self.sessions.look_at_variable(self.tenant, self.told.session_id, self.told.variable_id)

    def told_now(self, info: wire.VariableInfo) -> Told:
        return msgspec.structs.replace(self.told, state=info.state)

    def usage(self) -> Usage:
        found = self._call().usage
        return Usage(found.prompt_tokens, found.completion_tokens, found.cached_tokens)

    def reason(self) -> str:
        call = self._call()
        return "length" if call.usage.completion_tokens == self.limit else "stop"

    def _call(self) -> wire.CallInfo:
        return self.sessions.get_call(self.tenant, self.told.session_id, self.told.call_id)


@asynccontextmanager
async def _running(
    live: LiveRequests, id: str, bound: _Bound, told: Callable[[], bool]
) -> AsyncIterator[None]:
    """While open, the request can be cancelled by id. `told`: whether its client has heard of the session."""
    try:
        async with live.tracked(bound.tenant, id):
            yield
    except Gone:
        bound.cancel()
        raise
    except (asyncio.CancelledError, ConnectionResetError):
        if bound.alone and not told():
            bound.forget()
        raise


async def _stream(
    request: web.Request,
    live: LiveRequests,
    id: str,
    bound: _Bound,
    encoder: BoundChatEncoder,
    seconds: float,
) -> web.StreamResponse:
    async with Stream(request) as stream:
        shown = ""
        async with _running(live, id, bound, told=lambda: stream.response.prepared):
            async for events in bound.events(seconds) if seconds else _nothing():
                text = "".join(event.delta for event in events if isinstance(event, wire.VariableDelta))
                if text:
                    shown += text
                    await stream.write(data_frames(encoder.feed(0, _Delta(text))))
        info = bound.variable()
        encoder.ended(bound.told_now(info), bound.usage())
        rest = _value(info).removeprefix(shown)
        chunks = [*encoder.feed(0, _Delta(rest, bound.reason())), *encoder.end()]
        await stream.write(data_frames(chunks))
    return stream.response


async def _nothing() -> AsyncIterator[Events]:
    yield ()


def _value(info: wire.VariableInfo) -> str:
    """Empty as long as there is none. Raises DependencyFailed when there will be none."""
    if info.error is not None:
        raise DependencyFailed(info.error.message, param="parrot.output", code=info.error.code)
    return info.value or ""


async def _check(body: ChatRequest) -> None:
    with invalid_fields():
        variables.check(body, MAX_WAIT_S)
    chat_messages(body.messages)
    await grammar_of(body)  # on a thread, where it is long


def _submitted(sessions: Sessions, tenant: Tenant, body: ChatRequest, binding: Binding) -> _Bound:
    """Raises ApiError, and nothing is kept."""
    name = binding.output or f"chat.{secrets.token_hex(8)}"
    criteria = "throughput" if body.service_tier == "flex" else "latency"
    created = None
    if (session_id := binding.session_id) is None:
        session_id = created = sessions.create_session(tenant, wire.SessionRequest(model=body.model)).id
    try:
        with _own_fields(binding):
            (handle,) = sessions.submit(tenant, session_id, [_call(body, binding, name)]).calls
    except ApiError:
        if created is not None:
            with suppress(ApiError):
                sessions.delete_session(tenant, created)
        raise
    told = Told(
        session_id=session_id,
        call_id=handle.id,
        variable_id=handle.outputs[variables.ANSWER],
        name=name,
        state="pending",
    )
    limit = DEFAULT_MAX_TOKENS if body.output_limit is None else body.output_limit
    return _Bound(sessions, tenant, told, criteria, limit, alone=created is not None)


def _call(body: ChatRequest, binding: Binding, name: str) -> wire.Call:
    shared = {field: getattr(body, field) for field in _SAMPLING}
    inputs = [
        wire.Placeholder(name=placeholder, in_out="in", semantic_var_id=variable)
        for placeholder, variable in (binding.inputs or {}).items()
    ]
    output = wire.Placeholder(
        name=variables.ANSWER,
        in_out="out",
        semantic_var_id=name,
        sampling=wire.Sampling(max_tokens=body.output_limit, **shared),
        format=body.response_format,
    )
    messages = [
        wire.Message(role=role, content=content, name=author)
        for role, content, author in variables.conversation(body.messages)
    ]
    return wire.Call(messages=messages, placeholders=[*inputs, output], model=body.model)


@contextmanager
def _own_fields(binding: Binding) -> Iterator[None]:
    """Errors of a submit name its fields; here they name those that the client has sent."""
    try:
        yield
    except ApiError as error:
        info = error.info
        raise type(error)(
            info.message,
            param=_own(info.param or "", binding) or None,
            code=info.code,
            retry_after=error.retry_after,
        ) from error


def _own(param: str, binding: Binding) -> str:
    param = re.sub(r"^calls\[0\]\.?", "", param)
    if param == "session_id" or not param.startswith("placeholders["):
        return "parrot.session_id" if param == "session_id" else param
    names = list(binding.inputs or ())
    index, _, field = param.removeprefix("placeholders[").partition("].")
    if int(index) < len(names):
        return f"parrot.inputs.{names[int(index)][:140]}"
    if field.startswith("sampling."):
        return field.removeprefix("sampling.")
    return field.replace("format", "response_format", 1) if field.startswith("format") else "parrot.output"
