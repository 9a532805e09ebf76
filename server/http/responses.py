"""The Responses API: decode, generate as a chat, encode; and what can be asked of a response later.

Responsible for: the routes, whether a response is told whole, as a stream or later, and the order of things at its
end: it is kept before its client hears that it is complete. What a request means is `compat.openai.responses`' and
`server.http.openai_job`'s.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence

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
from server.generation import TextDelta
from server.http import fanout, running
from server.http.body import read
from server.http.body_values import check_values
from server.http.event_log import EventLog
from server.http.field_names import named
from server.http.keys import ARRIVED, REQUEST_ID, SERVICE, TENANT
from server.http.known_query import flag
from server.http.live import LiveRequests
from server.http.openai_job import Job, invalid_fields, job_of, prepared
from server.http.responses_live import CANCELLED, Draft, LiveResponses
from server.http.responses_store import StoredResponse
from server.http.sinks import Collected, Streamed
from server.http.sse import Ending, Stream, frame, frames
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
            web.get("/v1/responses/{id}", handlers.retrieve, allow_head=False),
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
        generations = running.admitted(service, self._live, owner, job, request.get(ARRIVED))
        if body.background:
            draft.log = EventLog() if body.stream else None
            queued = job.encoder.answer()
            await self._kept.start(self._make(owner, draft, job, generations))
            return _json(queued) if draft.log is None else await _followed(request, draft.log.follow(-1))
        if body.stream:
            return await self._stream(request, draft, job, generations)
        await self._make(owner, draft, job, generations)
        return _json(job.encoder.answer())

    async def retrieve(self, request: web.Request) -> web.StreamResponse:
        after = _starting_after(request)
        found = self._kept.find(request[TENANT], request.match_info["id"])
        if flag(request, "stream"):
            return await _followed(request, _events(found, after))
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

        def events(_: int, delta: TextDelta) -> bytes:
            return frames(encoder.feed(delta))

        async with Stream(request, _ending(encoder)) as stream:
            await stream.write(frames(encoder.begin()))
            with self._kept.making(owner, draft):
                await running.run(self._live, owner, job, generations, Streamed(stream, events), draft.id)
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
        def collect(_: int, delta: TextDelta) -> None:
            draft.feed(delta)

        with self._kept.making(owner, draft):
            draft.begin()
            await running.run(self._live, owner, job, generations, Collected(collect), draft.id)
            draft.end()

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


def _events(found: Draft | StoredResponse, after: int) -> AsyncIterator[bytes]:
    """Raises BadRequest where there is no stream of it."""
    if isinstance(found, Draft):
        log = found.log
    else:
        log = EventLog.of(found.events) if found.events else None
    if log is None:
        raise BadRequest(
            "Only a response that was created with background and stream can be streamed.",
            param="stream",
            code="unsupported_field",
        )
    return log.follow(after)


async def _followed(request: web.Request, events: AsyncIterator[bytes]) -> web.StreamResponse:
    """The response goes on without its reader."""
    async with Stream(request, _UNFINISHED) as stream:
        async for some in events:
            await stream.write(some)
    return stream.response


def _unfinished(_: int, info: ErrorInfo) -> bytes:
    """What ends a stream whose response has not: it can be followed again."""
    body = {"type": "error", "code": info.code, "message": info.message, "param": info.param}
    return frame(msgspec.json.encode(body), "error")


_UNFINISHED = Ending(b"", _unfinished)


def _starting_after(request: web.Request) -> int:
    """-1: from the beginning. Raises BadRequest."""
    given = request.query.get("starting_after")
    if given is None:
        return -1
    if not (given.isascii() and given.isdigit() and len(given) < 16):
        raise BadRequest("starting_after must be a sequence_number.", param="starting_after")
    return int(given)


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
