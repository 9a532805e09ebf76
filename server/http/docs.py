"""What a person finds at this server: a first page, the endpoints, and the document that programs read of them.

Responsible for: `/`, `/docs` and `/openapi.json`, which need no API key. The pages load nothing from anywhere else.
"""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path

import msgspec
from aiohttp import web

from server.http.answers import Index
from server.http.openapi import document
from server.http.operations import ALL, Operation
from server.version import VERSION

_STATIC = Path(__file__).parent / "static"


def routes() -> list[web.RouteDef]:
    return [web.get("/", index), web.get("/docs", docs), web.get("/openapi.json", openapi)]


async def index(request: web.Request) -> web.Response:
    """A page for browsers, JSON for everybody else."""
    if "text/html" in request.headers.get("Accept", ""):
        return web.Response(text=_page("index.html"), content_type="text/html", headers={"Vary": "Accept"})
    return web.Response(body=_index(), content_type="application/json", headers={"Vary": "Accept"})


async def docs(_: web.Request) -> web.Response:
    return web.Response(text=_page("docs.html"), content_type="text/html")


async def openapi(_: web.Request) -> web.Response:
    return web.Response(body=await asyncio.to_thread(_document), content_type="application/json")


@cache
def _page(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8").replace("$version", VERSION)


@cache
def _document() -> bytes:
    return document(ALL, VERSION)


@cache
def _index() -> bytes:
    return msgspec.json.encode(
        Index(
            name="parrot",
            version=VERSION,
            docs="/docs",
            openapi="/openapi.json",
            openai=_paths("OpenAI", "Responses"),
            anthropic=_paths("Messages"),
            semantic_variables=_paths("Programs", "Sessions"),
            operations=_paths("Operations"),
        )
    )


def _paths(*tags: str) -> list[str]:
    found: list[Operation] = [operation for operation in ALL if operation.tag in tags]
    return [*dict.fromkeys(operation.path for operation in found)]
