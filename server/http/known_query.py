"""Query parameters: reads a flag, and refuses a parameter that an endpoint does not have, so that a misspelt one
is seen.

Which ones there are is said once, in the table that the published schema is made of. Refused in our own API
only: clients of OpenAI's add parameters of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web
from aiohttp.typedefs import Handler

from server.errors import BadRequest
from server.http.operations import Operation


def knowing_their_query(routes: Sequence[web.RouteDef], table: Sequence[Operation]) -> list[web.RouteDef]:
    """The same routes, whose handlers see no parameter but those of `table`. KeyError: a route is not there."""
    known = {(row.method, row.path): frozenset(query.name for query in row.query) for row in table}
    return [
        web.RouteDef(
            route.method, route.path, _strict(route.handler, known[route.method, route.path]), route.kwargs
        )
        for route in routes
    ]


def flag(request: web.Request, name: str) -> bool:
    """Whether the parameter says true. Raises BadRequest when it says neither true nor false."""
    text = request.query.get(name, "").lower()
    if text not in ("", "0", "1", "false", "true"):
        raise BadRequest(f"{text[:50]!r} is neither true nor false.", param=name)
    return text in ("1", "true")


def _strict(handler: Handler, known: frozenset[str]) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        if request.query_string:
            for name in request.query:
                if name not in known:
                    raise BadRequest(_unknown(name, known), param=name[:128], code="unknown_field")
        return await handler(request)

    return handle


def _unknown(name: str, known: frozenset[str]) -> str:
    there = f"there are {', '.join(sorted(known))}" if known else "there is none here"
    return f"Unknown query parameter {name[:128]!r}: {there}."
