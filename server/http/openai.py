"""The OpenAI endpoints: decode, generate, encode.

Responsible for: the routes, and for ending every generation of a request when its handler ends. What a
request means is `server.http.openai_job`'s, and how an answer looks is `compat.openai`'s.
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from compat.openai import models, tokenize
from compat.openai.chat import ChatRequest
from compat.openai.common import GenerationFields
from compat.openai.completions import CompletionRequest
from compat.openai.encoder import Encoder
from server.errors import BadRequest, NotFound
from server.generation import TextDelta
from server.http import openai_bound, running
from server.http.body import read
from server.http.keys import ARRIVED, REQUEST_ID, SERVICE, TENANT
from server.http.live import LiveRequests
from server.http.middleware import harmless_id
from server.http.openai_job import Job, chat_job, chat_messages, check_ids, completion_job, default, encode
from server.http.sinks import Collected, Scored, Sink, Streamed, written
from server.http.sse import Stream, data_frames
from server.model_card import ModelCard


def routes(live: LiveRequests) -> list[web.RouteDef]:
    """`live`: what can be cancelled by id, of whatever format."""
    handlers = Handlers(live)
    return [
        web.get("/v1/models", list_models),
        web.get("/v1/models/{model:.+}", get_model),
        web.post("/v1/completions", handlers.complete),
        web.post("/v1/chat/completions", handlers.chat),
        web.post("/v1/requests/{id}/cancel", handlers.cancel),
        web.post("/tokenize", post_tokenize),
        web.post("/detokenize", post_detokenize),
    ]


class Handlers:
    """The handlers that generate, and the one that cancels them."""

    def __init__(self, live: LiveRequests) -> None:
        self._live = live

    async def complete(self, request: web.Request) -> web.StreamResponse:
        request.app[SERVICE].admit(request[TENANT])
        body = await read(request, CompletionRequest)
        job = await completion_job(request.app[SERVICE], request[TENANT], _id(request, body), body)
        return await self._answer(request, job)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        request.app[SERVICE].admit(request[TENANT])
        body = await read(request, ChatRequest)
        if body.parrot is not None:
            return await openai_bound.answer(request, self._live, _id(request, body), body)
        job = await chat_job(request.app[SERVICE], request[TENANT], _id(request, body), body)
        return await self._answer(request, job)

    async def cancel(self, request: web.Request) -> web.Response:
        """By the id of the answer, or by the one that the client gave its request."""
        id = request.match_info["id"]
        found = self._live.cancel(request[TENANT], id.removeprefix("chatcmpl-").removeprefix("cmpl-"))
        if not found:
            raise NotFound(f"There is no running request {id!r}.", param="id")
        return _json(msgspec.json.encode({"id": id, "cancelled": True}))

    async def _answer(self, request: web.Request, job: Job[Encoder]) -> web.StreamResponse:
        if job.stream:
            return await self._stream(request, job)
        await self._run(request, job, Collected(job.encoder.collect))
        return _json(await written(job.encoder.scores, job.encoder.answer))

    async def _stream(self, request: web.Request, job: Job[Encoder]) -> web.StreamResponse:
        encoder = job.encoder

        def chunks(index: int, delta: TextDelta) -> bytes:
            return data_frames(encoder.feed(index, delta))

        async with Stream(request) as stream:
            streamed = Scored if encoder.scores_prompts else Streamed
            await self._run(request, job, streamed(stream, chunks))
            await stream.write(data_frames(encoder.end()))
        return stream.response

    async def _run(self, request: web.Request, job: Job[Encoder], sink: Sink) -> None:
        owner = request[TENANT]
        generations = running.admitted(request.app[SERVICE], self._live, owner, job, request.get(ARRIVED))
        await running.run(self._live, owner, job, generations, sink)


async def list_models(request: web.Request) -> web.Response:
    card = request.app[SERVICE].model
    return _json(models.model_list(_model(card, name) for name in card.served_names))


async def get_model(request: web.Request) -> web.Response:
    name = request.match_info["model"]
    return _json(_model(request.app[SERVICE].resolve_model(name), name))


async def post_tokenize(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    body = await read(request, tokenize.TokenizeRequest)
    card = service.resolve_model(body.model)
    if body.prompt is not None and body.messages is None:
        ids = await encode(service, card, body.prompt, default(body.add_special_tokens, True), "prompt")
    elif body.messages is not None and body.prompt is None:
        text = service.tokenizer.render_chat(
            chat_messages(body.messages),
            add_generation_prompt=default(body.add_generation_prompt, not body.continue_final_message),
            continue_final_message=bool(body.continue_final_message),
        )
        ids = await encode(service, card, text, bool(body.add_special_tokens), "messages")
    else:
        raise BadRequest("Exactly one of prompt and messages must be given.", param="prompt")
    texts = [service.tokenizer.token_text(id) for id in ids] if body.return_token_strs else None
    return _json(tokenize.tokenized(ids, card.max_model_len, texts))


async def post_detokenize(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    body = await read(request, tokenize.DetokenizeRequest)
    card = service.resolve_model(body.model)
    check_ids(service.tokenizer, body.tokens, card.max_model_len, "tokens")
    return _json(tokenize.detokenized(service.tokenizer.decode(body.tokens, skip_special_tokens=False)))


def _json(data: bytes) -> web.Response:
    return web.Response(body=data, content_type="application/json")


def _model(card: ModelCard, name: str) -> bytes:
    return models.model_object(name, card.id, card.max_model_len, int(card.created))


def _id(request: web.Request, body: GenerationFields) -> str:
    """The client's own name for its request: vLLM's body field, else the header."""
    if body.request_id is None:
        return request[REQUEST_ID]
    if not harmless_id(body.request_id):
        raise BadRequest("request_id may have up to 128 of A-Z a-z 0-9 _ . : -", param="request_id")
    return body.request_id
