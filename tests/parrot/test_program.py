"""What a program costs in exchanges, and what its variables say, against a server that records."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import parrot as P
from tests.parrot.scripted_server import ScriptedServer

ROOT = Path(__file__).resolve().parents[2]


@P.semantic_function
def write(task: P.SemanticVariable) -> None:
    """Write {{input:task}}.
    {{output:code}}"""


@P.semantic_function
def check(task: P.SemanticVariable, code: P.SemanticVariable) -> None:
    """Check {{input:code}} for {{input:task}}. {{output:test}}"""


@P.semantic_function
def both(text: P.SemanticVariable) -> None:
    """{{input:text}} {{output:title}} and {{output:summary}}"""


@P.native_function
def shout(text: str) -> str:
    return text.upper()


@pytest.mark.usefixtures("session")
def test_two_gets_of_a_program_are_one_exchange(server: ScriptedServer) -> None:
    task = P.SemanticVariable("a game")
    code = write(task)
    test = check(task, code)
    assert code.get(perf=P.LATENCY) == "code.1<Write a game.>"
    assert test.get(perf=P.LATENCY) == "test.1<Check code.1<Write a game.> for a game.>"
    assert server.exchanges == ["POST /v1/programs"]
    assert server.programs[0].get == {"code.1": "latency", "test.1": "latency"}
    assert server.programs[0].variables == {"task.1": "a game"}


@pytest.mark.usefixtures("session")
def test_a_value_that_a_call_consumes_is_not_asked_for(server: ScriptedServer) -> None:
    code = write("a")
    check("b", code).get()
    assert server.programs[0].get == {"test.1": "latency"}
    assert code.get() == "code.1<Write a.>"
    assert code.get() == "code.1<Write a.>"
    assert len(server.exchanges) == 2
    assert server.queries == [{"stream": "true", "criteria": "latency"}]


@pytest.mark.usefixtures("session")
def test_a_chain_of_twenty_calls_is_one_exchange(server: ScriptedServer) -> None:
    value = write("x")
    for _ in range(19):
        value = write(value)
    assert value.get().count("Write") == 20
    assert server.exchanges == ["POST /v1/programs"]


@pytest.mark.usefixtures("session")
def test_a_program_that_grows_goes_to_the_same_session_and_names_what_is_there(
    server: ScriptedServer,
) -> None:
    code = write("a")
    code.get()
    assert check("b", code).get() == "test.1<Check code.1<Write a.> for b.>"
    first, second = server.programs
    assert first.session_id is None
    assert second.session_id == "sess_1"
    assert second.variables == {"task.2": "b"}


@pytest.mark.usefixtures("session")
def test_a_constant_is_sent_once(server: ScriptedServer) -> None:
    task = P.SemanticVariable("a", name="topic")
    assert write(task).get() == write(task).get().replace("code.2", "code.1")
    assert server.programs[0].variables == {"topic.1": "a"}
    assert server.programs[1].variables is None


@pytest.mark.usefixtures("session")
def test_when_the_server_has_forgotten_the_session_a_new_one_gets_the_values(server: ScriptedServer) -> None:
    code = write("a")
    code.get()
    server.forget()
    assert check("a", code).get() == "test.1<Check code.1<Write a.> for a.>"
    assert server.programs[-1].session_id is None
    assert server.programs[-1].variables == {"task.2": "a", "code.1": "code.1<Write a.>"}


@pytest.mark.usefixtures("session")
def test_a_function_called_twice_writes_to_two_names() -> None:
    first, second = write("a"), write("a")
    assert (first.name, second.name) == ("code.1", "code.2")
    assert first.get() != second.get()


@pytest.mark.usefixtures("session")
def test_several_outputs_come_as_a_named_tuple_in_the_templates_order() -> None:
    outputs = both("t")
    assert outputs._fields == ("title", "summary")
    title, summary = outputs
    assert title.get().startswith("title.1<")
    assert summary is outputs.summary


@pytest.mark.usefixtures("session")
def test_any_object_is_rendered_with_str() -> None:
    assert write(["a", 1]).get() == "code.1<Write ['a', 1].>"


@pytest.mark.usefixtures("session")
def test_a_container_of_variables_is_no_argument() -> None:
    with pytest.raises(TypeError, match="task"):
        write([write("a")])
    with pytest.raises(TypeError, match="task"):
        write(both("a"))


def test_flush_starts_the_program_without_waiting(server: ScriptedServer, session: P.Session) -> None:
    code = write("a")
    assert server.exchanges == []
    session.flush()
    assert code.get() == "code.1<Write a.>"
    assert server.exchanges == ["POST /v1/programs"]


def test_a_stricter_criterion_costs_one_exchange_and_a_laxer_one_none(
    server: ScriptedServer, session: P.Session
) -> None:
    code = write("WAIT")
    session.flush(P.Limits(deadline_ms=5000))
    pieces = code.stream(P.Limits(ttft_ms=200, tpot_ms=40))
    for again in (P.THROUGHPUT, P.Limits(deadline_ms=5000), P.Limits(ttft_ms=200, tpot_ms=40)):
        code.stream(again)
    assert next(pieces)
    assert server.followed.wait(10)
    server.gate.set()
    assert code.get(P.THROUGHPUT) == "code.1<Write WAIT.>"
    assert server.exchanges == ["POST /v1/programs", "GET /v1/sessions/sess_1/variables/code.1"]
    assert server.programs[0].get == {"code.1": P.Limits(deadline_ms=5000)}
    assert server.queries == [{"stream": "true", "criteria": "ttft_ms:200,tpot_ms:40"}]


@pytest.mark.usefixtures("session")
def test_a_stream_yields_the_text_in_pieces_and_a_late_one_all_of_it() -> None:
    code = write("a")
    assert "".join(code.stream()) == "code.1<Write a.>"
    assert list(code.stream()) == ["code.1<Write a.>"]


@pytest.mark.usefixtures("session")
def test_a_failed_variable_raises_its_chain_of_causes() -> None:
    with pytest.raises(P.VariableFailed) as caught:
        write("FAIL").get()
    assert caught.value.name == "code.1"
    assert caught.value.causes[0].variable == "earlier.1"
    assert "because of earlier.1 (call call_1): it said FAIL" in str(caught.value)


@pytest.mark.usefixtures("session")
def test_a_failure_does_not_take_the_others_with_it() -> None:
    good, bad = write("a"), write("FAIL")
    assert good.get() == "code.1<Write a.>"
    with pytest.raises(P.VariableFailed):
        bad.get()


@pytest.mark.usefixtures("session")
def test_a_refused_program_raises_the_servers_error_in_every_get() -> None:
    first, second = write("a"), check("b", P.call("REFUSE {{output:x}}"))
    for variable in (first, second, first):
        with pytest.raises(P.BadRequest) as caught:
            variable.get()
        assert caught.value.param == "calls[0].prompt"
        assert caught.value.status == 400


@pytest.mark.usefixtures("session")
def test_a_connection_that_breaks_is_an_error_with_the_url(server: ScriptedServer) -> None:
    code = write("CUT")
    pieces = code.stream()
    assert next(pieces)
    with pytest.raises(P.ConnectionError, match=server.url):
        list(pieces)
    with pytest.raises(ConnectionError):
        code.get()


def test_no_server_is_an_error_with_the_url() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with P.Session(url), pytest.raises(P.ConnectionError, match=url):
            write("a").get()


@pytest.mark.usefixtures("session")
def test_a_get_gives_up_after_its_timeout() -> None:
    stopped = threading.Event()
    waiting = P.native_function(lambda: str(stopped.wait()))()
    with pytest.raises(TimeoutError):
        waiting.get(timeout=0.01)
    stopped.set()
    assert waiting.get() == "True"


@pytest.mark.usefixtures("session")
def test_a_native_function_runs_between_calls(server: ScriptedServer) -> None:
    code = write("a")
    result = check("b", shout(code))
    assert result.get() == "test.1<Check CODE.1<WRITE A.> for b.>"
    assert len(server.exchanges) == 2
    assert server.programs[0].get == {"code.1": "latency"}
    assert server.programs[1].variables == {"task.2": "b", "shout.1": "CODE.1<WRITE A.>"}


@pytest.mark.usefixtures("session")
def test_native_functions_may_call_the_model_and_wait_for_it() -> None:
    @P.native_function
    def twice(text: str) -> str:
        return str(write(text).get()) + text

    assert twice(twice("a")).get() == "code.2<Write code.1<Write a.>a.>code.1<Write a.>a"


@pytest.mark.usefixtures("session")
def test_a_coroutine_function_may_be_native() -> None:
    @P.native_function
    async def later(text: str, times: int) -> str:
        await asyncio.sleep(0)
        return text * times

    assert later(write("a"), times=2).get() == "code.1<Write a.>" * 2


@pytest.mark.usefixtures("session")
def test_what_a_native_function_raises_fails_what_depends_on_it() -> None:
    @P.native_function
    def broken(text: str) -> str:
        raise LookupError(text)

    value = broken("a")
    after = check("b", value)
    with pytest.raises(P.VariableFailed, match=r"broken\.1") as caught:
        after.get()
    assert caught.value.code == "dependency_failed"
    with pytest.raises(P.VariableFailed) as caught:
        value.get()
    assert isinstance(caught.value.__cause__, LookupError)


@pytest.mark.usefixtures("session")
def test_a_native_function_that_returns_nothing_has_failed() -> None:
    with pytest.raises(P.VariableFailed, match="returned nothing"):
        P.native_function(lambda: None)().get()


async def test_everything_works_from_a_coroutine(server: ScriptedServer) -> None:
    async with P.Session(server.url):
        task = P.SemanticVariable("a")
        code = write(task)
        test = check(task, shout(code))
        pieces = [piece async for piece in code.astream()]
        assert "".join(pieces) == "code.1<Write a.>"
        values = list(await asyncio.gather(code.aget(), test.aget()))
        assert values == ["code.1<Write a.>", "test.1<Check CODE.1<WRITE A.> for a.>"]
    assert server.exchanges[-1].startswith("DELETE")


async def test_a_cancelled_aget_leaves_the_value_to_others(server: ScriptedServer) -> None:
    async with P.Session(server.url):
        go = threading.Event()
        value = P.native_function(lambda: str(go.wait()))()
        waiting = asyncio.ensure_future(value.aget())
        await asyncio.sleep(0)
        waiting.cancel()
        go.set()
        assert await value.aget() == "True"


def test_a_closed_session_deletes_the_servers_and_fails_what_is_left(server: ScriptedServer) -> None:
    with P.Session(server.url) as session:
        code = write("a")
        code.get()
        never = write("b")
    assert server.exchanges == ["POST /v1/programs", "DELETE /v1/sessions/sess_1"]
    assert code.get() == "code.1<Write a.>"
    with pytest.raises(P.SessionClosed):
        never.get()
    with pytest.raises(P.SessionClosed):
        session.flush()


def test_an_unfinished_output_takes_its_call_to_its_session(server: ScriptedServer) -> None:
    with P.Session(server.url), P.Session(server.url):
        code = write("a")
        with P.Session("http://127.0.0.1:1"):
            assert check("b", code).get() == "test.1<Check code.1<Write a.> for b.>"


def test_outputs_of_two_sessions_do_not_meet_before_they_have_values(server: ScriptedServer) -> None:
    with P.Session(server.url), P.Session(server.url) as inner:
        here = write("a")
        with P.Session(server.url):
            there = write("b")
            with pytest.raises(P.ParrotError, match="another session"):
                check(here, there)
            there.get()
            assert check(there, here).get() == "test.1<Check code.1<Write a.> for code.1<Write b.>.>"
        assert not inner.closed


def test_the_environment_names_server_and_key(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARROT_BASE_URL", server.url + "/")
    monkeypatch.setenv("PARROT_API_KEY", "secret")
    with P.Session():
        write("a").get()
    assert server.keys == ["Bearer secret"] * 2


def test_threads_have_default_sessions_of_their_own(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARROT_BASE_URL", server.url)
    values: list[str] = []
    threads = [threading.Thread(target=lambda: values.append(write("a").get())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == ["code.1<Write a.>"] * 8
    assert len(server.sessions) == 8


@pytest.mark.usefixtures("session")
def test_many_threads_may_share_a_session(session: P.Session) -> None:
    def work(index: int) -> None:
        with session:
            values[index] = check(str(index), write(str(index))).get()

    values: dict[int, str] = {}
    with session:
        threads = [threading.Thread(target=work, args=(index,)) for index in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(values) == list(range(16))
    assert all(f"for {index}." in value and f"Write {index}." in value for index, value in values.items())


def test_a_program_ends_without_warnings_and_so_does_a_forked_child(server: ScriptedServer) -> None:
    program = """
import os, sys
import parrot as P
@P.semantic_function
def write(task):
    "Write {{input:task}}. {{output:code}}"
print(write("a").get())
sys.stdout.flush()
left = write("b")
child = os.fork()
print(child == 0, write("c").get())
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
    answer = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        cwd=ROOT,
        env={**os.environ, "PARROT_BASE_URL": server.url},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    assert sorted(answer.stdout.splitlines()) == [
        "False code.3<Write c.>",
        "True code.1<Write c.>",
        "code.1<Write a.>",
    ]


def test_importing_the_sdk_loads_neither_the_server_nor_its_libraries() -> None:
    heavy = {"server", "engine", "torch", "orjson", "uvloop"}
    code = f"import sys, parrot; print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
