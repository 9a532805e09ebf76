"""A server that answers every completion with all its chunks in one write: what the client has to refuse."""

from __future__ import annotations

import argparse
import json

from aiohttp import web


async def complete(request: web.Request) -> web.Response:
    body = await request.json()
    count = body["max_tokens"]
    usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": count}
    events: list[dict[str, object]] = [{"choices": [{"text": " so"}]} for _ in range(count)]
    events.append({"choices": [], "usage": usage})
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return web.Response(text=text, content_type="text/event-stream")


async def health(_: web.Request) -> web.Response:
    return web.Response()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    args = parser.parse_args()
    app = web.Application()
    app.add_routes([web.get("/health", health), web.post("/v1/completions", complete)])
    web.run_app(app, host=args.host, port=args.port, print=None)
