from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from server.errors import EngineFailed, Unavailable
from server.http.sse import Ending, Stream, data_frames, frame
from tests.server.http.serving import serving


async def counting(request: web.Request) -> web.StreamResponse:
    async with Stream(request) as stream:
        await stream.write(frame(b'{"n":1}', "count"))
        await stream.write(frame(b'{"n":2}') + frame(b'{"n":3}'))
    return stream.response


async def failing_early(request: web.Request) -> web.StreamResponse:
    async with Stream(request) as stream:
        raise Unavailable("Still loading.", retry_after=1)
    return stream.response


async def failing_late(request: web.Request) -> web.StreamResponse:
    async with Stream(request) as stream:
        await stream.write(frame(b"{}"))
        raise EngineFailed("The engine died.")
    return stream.response


async def bug(request: web.Request) -> web.StreamResponse:
    async with Stream(request) as stream:
        await stream.write(frame(b"{}"))
        raise RuntimeError("secret")
    return stream.response


TYPED = Ending(b"", lambda status, info: frame(b'{"m":"%b"}' % info.message.encode(), f"error{status}"))


async def typed(request: web.Request) -> web.StreamResponse:
    async with Stream(request, TYPED) as stream:
        if "empty" not in request.query:
            await stream.write(frame(b"{}", "begun"))
        if "fail" in request.query:
            raise EngineFailed("The engine died.")
    return stream.response


async def test_events_are_framed_and_the_stream_ends_itself() -> None:
    async with serving([web.get("/", counting)]) as client:
        answer = await client.get("/", headers={"X-Request-Id": "r1"})
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert answer.headers["X-Request-Id"] == "r1"
        assert await answer.read() == (
            b'event: count\ndata: {"n":1}\n\ndata: {"n":2}\n\ndata: {"n":3}\n\ndata: [DONE]\n\n'
        )


async def test_an_error_before_the_first_event_is_an_http_error() -> None:
    async with serving([web.get("/", failing_early)]) as client:
        answer = await client.get("/")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert (await answer.json())["error"]["message"] == "Still loading."


async def test_an_error_after_it_is_an_event_and_the_stream_still_ends() -> None:
    async with serving([web.get("/", failing_late), web.get("/bug", bug)]) as client:
        answer = await client.get("/")
        assert answer.status == 200
        assert await answer.text() == (
            "data: {}\n\n"
            'data: {"error":{"message":"The engine died.","type":"server_error",'
            '"param":null,"code":"engine_error"}}\n\n'
            "data: [DONE]\n\n"
        )
        text = await (await client.get("/bug")).text()
        assert "Internal server error." in text
        assert "secret" not in text
        assert text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", "event: begun\ndata: {}\n\n"),
        ("?fail", 'event: begun\ndata: {}\n\nevent: error500\ndata: {"m":"The engine died."}\n\n'),
        ("?empty", ""),
    ],
)
async def test_another_format_s_stream_ends_in_its_own_way(query: str, text: str) -> None:
    async with serving([web.get("/", typed)]) as client:
        assert await (await client.get(f"/{query}")).text() == text


async def test_a_client_that_leaves_ends_the_handler() -> None:
    left = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        try:
            async with Stream(request) as stream:
                await stream.write(frame(b"{}"))
                await asyncio.Event().wait()
        finally:
            left.set()
        return stream.response

    async with serving([web.get("/", endless)]) as client:
        answer = await client.get("/")
        await answer.content.readline()
        answer.close()
        await asyncio.wait_for(left.wait(), 5)


async def test_writing_to_a_client_that_has_left_leaves_the_body_quietly() -> None:
    ended: asyncio.Future[web.StreamResponse] = asyncio.get_running_loop().create_future()
    gone = asyncio.Event()

    async def deaf(request: web.Request) -> web.StreamResponse:
        """Shielded from cancellation, it only notices when it writes."""
        writing = asyncio.ensure_future(write(request))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            gone.set()
            raise

    async def write(request: web.Request) -> web.StreamResponse:
        async with Stream(request) as stream:
            await stream.write(frame(b"{}"))
            await gone.wait()
            await stream.write(frame(b"{}"))
            raise AssertionError("the write succeeded")
        ended.set_result(stream.response)
        return stream.response

    async with serving([web.get("/", deaf)]) as client:
        answer = await client.get("/")
        await answer.content.readline()
        answer.close()
        assert (await asyncio.wait_for(ended, 5)).prepared


async def test_a_stream_flows_until_its_client_does_not_read_and_one_that_never_does_is_left() -> None:
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def flood(request: web.Request) -> web.StreamResponse:
        sent = 0
        async with Stream(request) as stream:
            early = stream.flows
            assert not early, "its headers are not written"
            await stream.write(frame(b"{}"))
            while stream.flows:
                stream.send(b"x" * 8192)
                sent += 1
            while True:
                await stream.write(b"x" * 8192)
        ended.set_result(sent)
        return stream.response

    async with serving([web.get("/", flood)], client_timeout=0.05) as client:
        answer = await client.get("/")
        assert await asyncio.wait_for(ended, 10) > 0
        answer.close()


async def test_an_old_client_s_stream_has_no_chunks() -> None:
    async with serving([web.get("/", counting)]) as client:
        url = (await client.get("/")).url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
    assert b"chunked" not in head
    assert body == b'event: count\ndata: {"n":1}\n\ndata: {"n":2}\n\ndata: {"n":3}\n\ndata: [DONE]\n\n'


async def test_events_of_nothing_do_not_end_a_stream() -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        async with Stream(request) as stream:
            await stream.write(frame(b"1"))
            stream.send(data_frames([]))
            stream.send(data_frames([b"2", b"3"]))
        return stream.response

    async with serving([web.get("/", silent)]) as client:
        text = await (await client.get("/")).text()
    assert text == "data: 1\n\ndata: 2\n\ndata: 3\n\ndata: [DONE]\n\n"
