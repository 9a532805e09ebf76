"""What operators and probes ask: liveness, readiness, metrics, version, and the story of a request."""

from __future__ import annotations

import orjson
from aiohttp import web

from server.http.keys import SERVICE, TENANT
from server.version import VERSION


def routes() -> list[web.RouteDef]:
    return [
        web.get("/health", health),
        web.get("/ping", health),
        web.get("/health/ready", ready),
        web.get("/metrics", metrics),
        web.get("/version", version),
        web.get("/v1/admin/story/{id}", story),
    ]


async def health(request: web.Request) -> web.Response:
    """Liveness: 503 once no engine is left that could be expected to answer soon."""
    alive = not request.app[SERVICE].failed
    return _json({"status": "ok" if alive else "failed"}, status=200 if alive else 503)


async def ready(request: web.Request) -> web.Response:
    """Readiness: 200 when requests are taken; else 503 with the progress of loading, or what is wrong."""
    readiness = request.app[SERVICE].readiness()
    body = {"status": readiness.status, "engines": [str(engine) for engine in readiness.engines]}
    if readiness.status == "ready":
        return _json(body)
    return _json(body, status=503, headers={"Retry-After": "1"})


async def metrics(request: web.Request) -> web.Response:
    body, content_type = request.app[SERVICE].metrics.render()
    return web.Response(body=body, headers={"Content-Type": content_type})


async def story(request: web.Request) -> web.Response:
    """What happened to the tasks of a session or of a request of this key: a list of dated lines for each."""
    id = request.match_info["id"].removeprefix("chatcmpl-").removeprefix("cmpl-")
    tasks = request.app[SERVICE].stories(request[TENANT], id)
    return _json({"id": id, "tasks": [{"task": task, "story": lines} for task, lines in tasks.items()]})


async def version(_: web.Request) -> web.Response:
    return _json({"version": VERSION})


def _json(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(body), status=status, headers=headers, content_type="application/json"
    )
