"""The SDK against the real process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

import parrot as P
from bench.serving import ROOT, Server, serve
from tests.e2e.api import until

POSTER = '''
import parrot as P
from parrot.PerformanceCriteria import LATENCY
@P.SemanticFunction
def WritePythonCode(task: P.SemanticVariable):
    """ You are an expert software engineer.
        Write python code of {{input:task}}.
        Code: {{output:code}}
    """
@P.SemanticFunction
def WriteTestCode(
    task: P.SemanticVariable,
    code: P.SemanticVariable):
    """ You are an experienced QA engineer.
        You write test code for {{input:task}}.
        Code: {{input:code}}.
        Your test code: {{output:test}}
    """
def WriteSnakeGame():
  task = P.SemanticVariable("a snake game")
  code = WritePythonCode(task)
  test = WriteTestCode(task, code)
  return code.get(perf=LATENCY), test.get(perf=LATENCY)
'''
SHORT = P.Sampling(max_tokens=16, temperature=0)


@P.semantic_function(sampling=SHORT)
def go_on(text: P.SemanticVariable) -> None:
    """{{input:text}} and {{output:more}}"""


@P.semantic_function(sampling=SHORT)
def ask(text: P.SemanticVariable) -> None:
    """Text: {{input:text}}
    Who? {{output:who}}
    Title: {{output:title}}"""


@pytest.fixture
def session(server_url: str) -> Iterator[P.Session]:
    with P.Session(server_url) as session:
        yield session


def test_the_posters_program_runs_as_printed(server_url: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", POSTER + "print(WriteSnakeGame())"],
        cwd=ROOT,
        env={**os.environ, "PARROT_BASE_URL": server_url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    code, test = eval(answer.stdout)
    assert isinstance(code, str)
    assert isinstance(test, str)


@pytest.mark.usefixtures("session")
def test_a_chain_of_twenty_calls_ends_in_the_text_of_twenty_gets() -> None:
    value = P.SemanticVariable("Once")
    for _ in range(20):
        value = go_on(value)
    text = "Once"
    for _ in range(20):
        text = go_on(text).get()
    assert value.get() == text


@pytest.mark.usefixtures("session")
def test_several_outputs_and_an_intermediate_value() -> None:
    story = go_on("Once upon a time")
    who, title = ask(story)
    assert [type(value.get()) for value in (who, title, story)] == [str, str, str]


@pytest.mark.usefixtures("session")
def test_a_stream_adds_up_to_the_value() -> None:
    story = go_on("Once, while somebody listened,")  # not answered from memory
    pieces = list(story.stream())
    assert len(pieces) > 1
    assert "".join(pieces) == story.get()


async def test_a_program_in_coroutines(server_url: str) -> None:
    async with P.Session(server_url):
        story = go_on("Once")
        more = go_on(story)
        pieces = [piece async for piece in more.astream()]
        values = await asyncio.gather(story.aget(), more.aget(P.THROUGHPUT))
    assert "".join(pieces) == values[1]


@pytest.mark.usefixtures("session")
def test_a_native_function_stands_between_two_calls() -> None:
    @P.native_function
    def count(text: str) -> int:
        return len(text.split())

    story = go_on("Once")
    words = count(story)
    assert isinstance(go_on(words).get(), str)
    assert words.get() == str(len(story.get().split()))


@pytest.mark.usefixtures("session")
@pytest.mark.parametrize(
    "perf", [P.LATENCY, P.THROUGHPUT, P.Limits(ttft_ms=200, tpot_ms=40), P.Limits(deadline_ms=5000)]
)
def test_every_criterion_is_understood(perf: str | P.Limits) -> None:
    first = go_on("Once")
    second = go_on(first)
    assert second.get(perf) is not None
    assert first.get(perf) is not None


@pytest.mark.usefixtures("session")
def test_a_failing_transform_raises_with_its_chain_of_causes() -> None:
    broken = P.call("Once {{output:x}}", sampling=SHORT, transforms={"x": "json_field('a')"})
    with pytest.raises(P.VariableFailed) as caught:
        go_on(go_on(broken)).get()
    assert [cause.variable for cause in caught.value.causes] == ["more.1", "x.1"]
    with pytest.raises(P.VariableFailed, match=r"x\.1"):
        broken.get()


@pytest.mark.usefixtures("session")
def test_an_unknown_model_is_the_servers_error() -> None:
    with pytest.raises(P.ModelNotFound) as caught:
        P.call("{{output:x}}", model="no-such-model").get()
    assert caught.value.status == 404


def test_a_session_ends_at_the_server_when_it_ends_here(server_url: str, session: P.Session) -> None:
    go_on("Once").get()
    first = session.id
    session.close()
    with P.Session(server_url) as other:
        go_on("Once").get()
        assert other.id not in (None, first)


def test_a_key_is_sent_and_a_wrong_one_is_the_servers_error() -> None:
    with serve("--engine", "sim", "--api-key", "secret") as server:
        with P.Session(server.url, "secret"):
            assert go_on("Once").get() is not None
        with P.Session(server.url, "wrong"), pytest.raises(P.Unauthorized):
            go_on("Once").get()


def test_a_program_whose_process_is_killed_is_cancelled(sim_server: Server) -> None:
    program = """
import parrot as P
story = P.call("x{{output:story}}", sampling=P.Sampling(max_tokens=2000, ignore_eos=True))
print(next(story.stream()), flush=True)
story.get()
"""
    client = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PARROT_BASE_URL": sim_server.url},
        stdout=subprocess.PIPE,
    )
    assert client.stdout is not None
    assert client.stdout.readline()
    client.kill()
    client.wait()
    client.stdout.close()
    assert until(lambda: sim_server.metric("vllm:num_requests_running") == 0, 2.0)
