"""The other end of the SDK's exchanges: a server that records them and answers as it was told.

A prompt's outputs are its filled text, `name<...>`, so that a value shows which calls it came through. A
prompt that says FAIL fails, one that says CUT ends the answer after half a value, one that says WAIT waits
there for the gate, and REFUSE is a 400.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
from aiohttp import web

from parrot import wire
from parrot.transport import Background

Outcome = str | wire.VariableError


@dataclass(slots=True)
class ScriptedServer:
    url: str = ""
    exchanges: list[str] = field(default_factory=list)
    programs: list[wire.ProgramRequest] = field(default_factory=list)
    queries: list[dict[str, str]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    sessions: dict[str, dict[str, Outcome]] = field(default_factory=dict)
    gate: threading.Event = field(default_factory=threading.Event)
    followed: threading.Event = field(default_factory=threading.Event)

    def forget(self) -> None:
        """As a server does whose sessions have expired."""
        self.sessions.clear()

    async def program(self, request: web.Request) -> web.StreamResponse:
        body = msgspec.json.decode(await request.read(), type=wire.ProgramRequest)
        self._record(request)
        self.programs.append(body)
        if any("REFUSE" in (call.prompt or "") for call in body.calls):
            return _error(400, "it says REFUSE", "calls[0].prompt")
        if body.session_id is not None and body.session_id not in self.sessions:
            return _error(404, "no such session", "session_id")
        session_id = body.session_id or f"sess_{len(self.exchanges)}"
        values = self.sessions.setdefault(session_id, {})
        values.update(body.variables or {})
        return await _answer(request, self._events(session_id, body, values))

    async def variable(self, request: web.Request) -> web.StreamResponse:
        self._record(request)
        self.queries.append(dict(request.query))
        self.followed.set()
        name = request.match_info["name"]
        return await _answer(request, self._told(name, self.sessions[request.match_info["session"]][name]))

    async def delete(self, request: web.Request) -> web.Response:
        self._record(request)
        del self.sessions[request.match_info["session"]]
        return web.json_response({"deleted": True})

    async def _events(
        self, session_id: str, body: wire.ProgramRequest, values: dict[str, Outcome]
    ) -> AsyncIterator[wire.ProgramEvent | None]:
        yield wire.ProgramCreated(id="prog_1", session_id=session_id, variables={})
        for call in body.calls:
            for name, outcome in _run(call, values).items():
                values[name] = outcome
                if name in (body.get or ()):
                    async for event in self._told(name, outcome):
                        yield event
        yield wire.ProgramDone(
            values={name: values[name] for name in body.get or () if isinstance(values[name], str)},  # type: ignore[misc]
        )

    async def _told(self, name: str, outcome: Outcome) -> AsyncIterator[wire.ProgramEvent | None]:
        """None: the connection is cut here."""
        if isinstance(outcome, wire.VariableError):
            yield wire.VariableFailed(name=name, error=outcome)
            return
        half = len(outcome) // 2
        yield wire.VariableDelta(name=name, delta=outcome[:half])
        if "WAIT" in outcome:
            await asyncio.to_thread(self.gate.wait)
        if "CUT" in outcome:
            yield None
        yield wire.VariableDelta(name=name, delta=outcome[half:])
        yield wire.VariableReady(name=name, value=outcome)

    def _record(self, request: web.Request) -> None:
        self.exchanges.append(f"{request.method} {request.path}")
        self.keys.append(request.headers.get("Authorization"))


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    """On a loop and a thread of its own."""
    server, background = ScriptedServer(), Background()
    app = web.Application()
    app.router.add_post("/v1/programs", server.program)
    app.router.add_get("/v1/sessions/{session}/variables/{name}", server.variable)
    app.router.add_delete("/v1/sessions/{session}", server.delete)
    runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def start() -> None:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    background.start(start()).result()
    try:
        yield server
    finally:
        background.start(runner.cleanup()).result()
        background.close()


def _run(call: wire.Call, values: dict[str, Outcome]) -> dict[str, Outcome]:
    prompt = call.prompt or "\n".join(str(message.content) for message in call.messages or [])
    bound = {p.name: p.semantic_var_id or p.name for p in call.placeholders or []}

    def fill(match: re.Match[str]) -> str:
        value = values[bound[match[1]]]
        return value if isinstance(value, str) else f"FAIL:{bound[match[1]]}"

    text = re.sub(r"\{\{input:(\w+)\}\}", fill, prompt)
    text = re.sub(r"\{\{output:\w+\}\}", "", text).strip()
    outputs = [bound[name] for name in re.findall(r"\{\{output:(\w+)\}\}", prompt)]
    if "FAIL" in text:
        cause = [wire.Cause(variable="earlier.1", message="it said FAIL", call="call_1")]
        return {
            name: wire.VariableError(message="an input failed", code="x", cause=cause) for name in outputs
        }
    return {name: f"{name}<{text}>" for name in outputs}


async def _answer(
    request: web.Request, events: AsyncIterator[wire.ProgramEvent | None]
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    async for event in events:
        if event is None:
            assert request.transport is not None
            request.transport.abort()
            return response
        tag = str(event.__struct_config__.tag).encode()
        await response.write(b"event: %b\ndata: %b\n\n" % (tag, msgspec.json.encode(event)))
    await response.write(b"data: [DONE]\n\n")
    return response


def _error(status: int, message: str, param: str) -> web.Response:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": "x"}
    return web.json_response({"error": error}, status=status)
