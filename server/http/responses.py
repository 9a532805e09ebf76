"""The Responses API: decode, generate as a chat, encode; and what can be asked of a response later.

Responsible for: the routes, whether a response is told whole, as a stream or later, and the order of things at its
end: it is kept before its client hears that it is complete. What a request means is `compat.openai.responses`' and
`server.http.openai_job`'s.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

import msgspec
from aiohttp import web

from compat.blocks import Blocks, TypedEvent
from compat.openai import responses
from compat.openai.responses import ResponseRequest
from compat.openai.responses_encoder import ResponseEncoder, ResponseHead
from compat.openai.responses_items import Item, given, listed
from compat.openai.tools import request as tools
from compat.openai.tools.parsers import Plain
from parrot.wire import ErrorInfo
from server.errors import BadRequest, NotFound
from server.http import fanout, running
from server.http.body import read
from server.http.body_values import check_values
from server.http.field_names import named
from server.http.keys import REQUEST_ID, SERVICE, TENANT
from server.http.live import LiveRequests
from server.http.openai_job import Job, invalid_fields, job_of, prepared
from server.http.responses_live import CANCELLED, Draft, LiveResponses
from server.http.responses_store import StoredResponse
from server.http.sse import Ending, Stream, frames
from server.service import Service
from server.tenant import Tenant

MAX_LISTED = 100
DEFAULT_LISTED = 20


def install(app: web.Application, live: LiveRequests) -> None:
    """Adds the routes, and ends what runs in the background when the application does."""
    kept = LiveResponses()
    handlers = Handlers(live, kept)
    app.add_routes(
        [
            web.post("/v1/responses", handlers.create),
            web.get("/v1/responses/{id}", handlers.retrieve),
            web.delete("/v1/responses/{id}", handlers.delete),
            web.post("/v1/responses/{id}/cancel", handlers.cancel),
            web.get("/v1/responses/{id}/input_items", handlers.input_items),
        ]
    )

    async def close(_: web.Application) -> None:
        await kept.close()

    app.on_shutdown.append(close)


class Handlers:
    """The handlers, and what they share: what runs, and what is kept."""

    def __init__(self, live: LiveRequests, kept: LiveResponses) -> None:
        self._live = live
        self._kept = kept

    async def create(self, request: web.Request) -> web.StreamResponse:
        service, owner = request.app[SERVICE], request[TENANT]
        service.admit(owner)
        body = await read(request, ResponseRequest)
        with invalid_fields():
            responses.check(body)
        before = self._before(owner, body.previous_response_id)
        job = await _job(service, owner, request[REQUEST_ID], body, before)
        draft = _draft(body, before, job.encoder)
        generations = running.admitted(service, self._live, owner, job)
        if body.stream:
            return await self._stream(request, draft, job, generations)
        if body.background:
            queued = job.encoder.answer()
            await self._kept.start(self._make(owner, draft, job, generations))
            return _json(queued)
        await self._make(owner, draft, job, generations)
        return _json(job.encoder.answer())

    async def retrieve(self, request: web.Request) -> web.Response:
        if request.query.get("stream", "").lower() == "true":
            raise BadRequest(
                "A response can only be streamed when it is created.",
                param="stream",
                code="unsupported_field",
            )
        found = self._kept.find(request[TENANT], request.match_info["id"])
        return _json(found.encoder.answer() if isinstance(found, Draft) else found.answer)

    async def delete(self, request: web.Request) -> web.Response:
        """One in the making ends."""
        owner, id = request[TENANT], request.match_info["id"]
        if isinstance(self._kept.forget(owner, id), Draft):
            self._live.cancel(owner, id)
        return web.json_response({"id": id, "object": "response", "deleted": True})

    async def cancel(self, request: web.Request) -> web.Response:
        """One that has ended is answered as it is."""
        owner, id = request[TENANT], request.match_info["id"]
        found = self._kept.find(owner, id)
        if not isinstance(found, Draft):
            return _json(found.answer)
        self._live.cancel(owner, id)
        found.encoder.fail(CANCELLED, "server_error", cancelled=True)
        return _json(found.encoder.answer())

    async def input_items(self, request: web.Request) -> web.Response:
        """What the answer was made from, the conversation before it too."""
        found = self._kept.find(request[TENANT], request.match_info["id"])
        turns = found.turns if isinstance(found, Draft) else found.turns[:-1]
        items = [item for turn in turns for item in msgspec.json.decode(turn, type=list[dict[str, object]])]
        return _json(msgspec.json.encode(_page(items, request)))

    async def _stream(
        self,
        request: web.Request,
        draft: Draft,
        job: Job[ResponseEncoder],
        generations: Sequence[fanout.Generation],
    ) -> web.StreamResponse:
        encoder, owner = job.encoder, request[TENANT]
        async with Stream(request, _ending(encoder)) as stream:

            async def send(steps: Sequence[fanout.Step]) -> None:
                await stream.write(b"".join(frames(encoder.feed(delta)) for _, delta in steps))

            await stream.write(frames(encoder.begin()))
            with self._kept.making(owner, draft):
                await running.run(self._live, owner, job, generations, send, draft.id)
                last = _end(encoder)
            await stream.write(frames(last))
        return stream.response

    async def _make(
        self,
        owner: Tenant,
        draft: Draft,
        job: Job[ResponseEncoder],
        generations: Sequence[fanout.Generation],
    ) -> None:
        async def collect(steps: Sequence[fanout.Step]) -> None:
            for _, delta in steps:
                job.encoder.collect(delta)

        with self._kept.making(owner, draft):
            await running.run(self._live, owner, job, generations, collect, draft.id)
            _end(job.encoder)

    def _before(self, owner: Tenant, id: str | None) -> StoredResponse | None:
        """Raises BadRequest."""
        if id is None:
            return None
        try:
            found = self._kept.find(owner, id)
        except NotFound as error:
            raise BadRequest(
                f"There is no previous response {id[:140]!r}.",
                param="previous_response_id",
                code="previous_response_not_found",
            ) from error
        if isinstance(found, Draft):
            raise BadRequest(
                f"The response {id!r} has not ended.",
                param="previous_response_id",
                code="response_in_progress",
            )
        return found


async def _job(
    service: Service, owner: Tenant, id: str, body: ResponseRequest, before: StoredResponse | None
) -> Job[ResponseEncoder]:
    """Raises ApiError."""
    turns = () if before is None else before.turns
    check_values(b",".join(turns), "previous_response_id")
    history = [item for turn in turns for item in msgspec.json.decode(turn, type=list[Item])]
    with invalid_fields():
        chat = responses.as_chat(body, history, None if before is None else before.root)
    with named(responses.field_of):
        ready = await prepared(service, chat)
    sampling = ready.params[0].sampling
    head = ResponseHead(
        stem=secrets.token_hex(24),
        created=int(time.time()),
        model=body.model or ready.card.served_names[0],
        prompt_tokens=len(ready.prompt.token_ids),
        echo=responses.echo(body, sampling.temperature, sampling.top_p),
    )
    blocks = Blocks((ready.parser or Plain)(), ready.thinking, tools.most(chat))
    encoder = ResponseEncoder(head, blocks, logprobs=body.logprobs, bytes_of=service.tokenizer.token_bytes)
    return job_of(id, owner, chat, [ready.prompt], ready.params, encoder)


def _draft(body: ResponseRequest, before: StoredResponse | None, encoder: ResponseEncoder) -> Draft:
    new = listed(given(body.input or []), f"{encoder.head.stem}_in")
    if before is None:
        return Draft(encoder, encoder.head.id, (new,), body.stored)
    return Draft(encoder, before.root, (*before.turns, new), body.stored)


def _end(encoder: ResponseEncoder) -> list[TypedEvent]:
    return encoder.end(int(time.time()))


def _ending(encoder: ResponseEncoder) -> Ending:
    """A response that has failed by now says so itself."""

    def error(_: int, __: ErrorInfo) -> bytes:
        return frames(_end(encoder))

    return Ending(b"", error)


def _page(items: Sequence[dict[str, object]], request: web.Request) -> dict[str, object]:
    """The last ones first, unless asked otherwise. Raises BadRequest."""
    order, after = request.query.get("order", "desc"), request.query.get("after")
    limit = request.query.get("limit", str(DEFAULT_LISTED))
    if order not in ("asc", "desc"):
        raise BadRequest("order must be asc or desc.", param="order")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= MAX_LISTED):
        raise BadRequest(f"limit must be between 1 and {MAX_LISTED}.", param="limit")
    found = list(items) if order == "asc" else [*reversed(items)]
    if after is not None:
        ids = [item["id"] for item in found]
        if after not in ids:
            raise BadRequest("There is no item of this id.", param="after")
        found = found[ids.index(after) + 1 :]
    page = found[: int(limit)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(found) > len(page),
    }


def _json(data: bytes) -> web.Response:
    return web.Response(body=data, content_type="application/json")
