"""Anthropic's endpoints: decode, generate as a chat, encode.

Responsible for: the routes, and for how a stream of this format ends. What a request means is `compat.anthropic`'s
and `server.http.openai_job`'s.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from aiohttp import web

from compat.anthropic import messages
from compat.anthropic.encoder import MessageEncoder, MessageHead
from compat.anthropic.errors import error_body
from compat.anthropic.messages import CountRequest, MessagesRequest
from compat.blocks import Blocks
from compat.openai.chat import ChatRequest
from compat.openai.tools import request as tools
from compat.openai.tools.parsers import Plain
from parrot.wire import ErrorInfo
from server.generation import TextDelta
from server.http import fanout, running
from server.http.body import read
from server.http.field_names import named
from server.http.keys import ARRIVED, REQUEST_ID, SERVICE, TENANT
from server.http.live import LiveRequests
from server.http.openai_job import Job, chat_prompt, invalid_fields, job_of, prepared
from server.http.sinks import Collected, Streamed
from server.http.sse import Ending, Stream, frame, frames
from server.service import Service
from server.tenant import Tenant


def routes(live: LiveRequests) -> list[web.RouteDef]:
    handlers = Handlers(live)
    return [
        web.post("/v1/messages", handlers.create),
        web.post("/v1/messages/count_tokens", count_tokens),
    ]


class Handlers:
    """The handler that generates."""

    def __init__(self, live: LiveRequests) -> None:
        self._live = live

    async def create(self, request: web.Request) -> web.StreamResponse:
        service, owner = request.app[SERVICE], request[TENANT]
        service.admit(owner)
        body = await read(request, MessagesRequest)
        job = await _job(service, owner, request[REQUEST_ID], body)
        generations = running.admitted(service, self._live, owner, job, request.get(ARRIVED))
        if job.stream:
            return await self._stream(request, job, generations)

        def collect(_: int, delta: TextDelta) -> None:
            job.encoder.collect(delta)

        await running.run(self._live, owner, job, generations, Collected(collect), job.encoder.head.id)
        return web.Response(body=job.encoder.answer(), content_type="application/json")

    async def _stream(
        self, request: web.Request, job: Job[MessageEncoder], generations: Sequence[fanout.Generation]
    ) -> web.StreamResponse:
        encoder = job.encoder

        def events(_: int, delta: TextDelta) -> bytes:
            return frames(encoder.feed(delta))

        async with Stream(request, _ending(request[REQUEST_ID])) as stream:
            sink = Streamed(stream, events)
            await running.run(self._live, request[TENANT], job, generations, sink, encoder.head.id)
            await stream.write(frames(encoder.end()))
        return stream.response


async def count_tokens(request: web.Request) -> web.Response:
    """How many tokens the prompt of the same message would have."""
    service = request.app[SERVICE]
    body = await read(request, CountRequest)
    chat = _chat(body)
    with named(messages.field_of):
        prompt = await chat_prompt(service, service.resolve_model(body.model), chat)
    return web.json_response({"input_tokens": len(prompt.token_ids)})


async def _job(service: Service, owner: Tenant, id: str, body: MessagesRequest) -> Job[MessageEncoder]:
    """Raises ApiError."""
    chat = _chat(body)
    with named(messages.field_of):
        ready = await prepared(service, chat)
    blocks = Blocks((ready.parser or Plain)(), ready.thinking, tools.most(chat))
    model = body.model or ready.card.served_names[0]
    head = MessageHead(secrets.token_hex(12), model, len(ready.prompt.token_ids))
    return job_of(id, owner, chat, [ready.prompt], ready.params, MessageEncoder(head, blocks))


def _chat(body: CountRequest) -> ChatRequest:
    with invalid_fields():
        messages.check(body)
        return messages.as_chat(body)


def _ending(request_id: str) -> Ending:
    """The last event of a stream says by its name that it is."""

    def error(status: int, info: ErrorInfo) -> bytes:
        return frame(error_body(status, info.message, info.param, request_id), "error")

    return Ending(b"", error)
