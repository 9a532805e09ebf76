"""EngineClient against real engine processes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from engine.client import EngineClient, EngineDied
from engine.config import EngineConfig, SimConfig
from engine.ipc import FrameBuffer, FrameEncoder, decode_from_engine
from engine.launch import ROOT
from engine.types import (
    Failed,
    Generate,
    Hint,
    Loading,
    Objective,
    Ready,
    SamplingParams,
    StepReport,
    TokenDelta,
    TokenLogprobs,
    Warm,
)

CONFIG = EngineConfig(kind="sim", sim=SimConfig(base_ms=0.2, per_sequence_ms=0.0))
ENDLESS = 30_000


@asynccontextmanager
async def an_engine(
    config: EngineConfig = CONFIG, on_report: Callable[[StepReport], None] | None = None
) -> AsyncIterator[EngineClient]:
    client = await EngineClient.start(config, on_report=on_report)
    try:
        await client.ready
        yield client
    finally:
        await client.close()


def a_request(request_id: int = 1, max_tokens: int = 20, length: int = 100) -> Generate:
    tokens = tuple(range(400, 400 + length))
    return Generate(request_id, tokens, SamplingParams(max_tokens=max_tokens, seed=request_id))


class Deltas:
    """A reader that keeps what it gets, to be iterated until the last one."""

    def __init__(self) -> None:
        self._came: asyncio.Queue[TokenDelta | EngineDied] = asyncio.Queue()

    def push(self, delta: TokenDelta) -> None:
        self._came.put_nowait(delta)

    def lose(self, message: str) -> None:
        self._came.put_nowait(EngineDied(message))

    async def __aiter__(self) -> AsyncIterator[TokenDelta]:
        finished = False
        while not finished:
            match await self._came.get():
                case EngineDied() as died:
                    raise died
                case delta:
                    finished = delta.finish_reason is not None
                    yield delta


@asynccontextmanager
async def generating(client: EngineClient, request: Generate) -> AsyncIterator[Deltas]:
    deltas = Deltas()
    await client.open(request, deltas)
    try:
        yield deltas
    finally:
        client.leave(request.id)


async def generate(client: EngineClient, request: Generate) -> list[int]:
    async with generating(client, request) as deltas:
        return [id async for delta in deltas for id in delta.token_ids]


class Reports(list[StepReport]):
    """Reports as they come; `until` awaits one that satisfies a condition."""

    def __init__(self) -> None:
        super().__init__()
        self._came = asyncio.Event()

    def __call__(self, report: StepReport) -> None:
        self.append(report)
        self._came.set()

    async def until(self, condition: Callable[[StepReport], bool]) -> StepReport:
        while True:
            self._came.clear()
            for report in self:
                if condition(report):
                    return report
            await asyncio.wait_for(self._came.wait(), 5)


async def test_an_engine_says_how_it_loads_and_is_ready_soon() -> None:
    loadings: list[Loading] = []
    begun = time.perf_counter()
    client = await EngineClient.start(CONFIG, on_loading=loadings.append)
    ready = await client.ready
    taken = time.perf_counter() - begun
    await client.close()
    assert ready == await client.ready
    assert loadings[-1].fraction == 1.0
    assert taken < 2.0, "about 0.2 s on an idle machine"


def environment_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


@pytest.mark.parametrize("own", [None, "7"])
async def test_an_engine_spins_briefly_between_parallel_regions_unless_told_otherwise(
    own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if own is not None:
        monkeypatch.setenv("GOMP_SPINCOUNT", own)
    async with an_engine() as client:
        assert f"GOMP_SPINCOUNT={own or 1000}" in environment_of(client.pid)


async def test_many_generations_share_an_engine_and_each_gets_its_own_tokens() -> None:
    async with an_engine() as client:
        together = await asyncio.gather(*(generate(client, a_request(i)) for i in range(30)))
        alone = [await generate(client, a_request(i)) for i in range(30)]
    assert together == alone
    assert all(len(tokens) == 20 for tokens in together)


async def test_what_is_read_of_several_steps_at_once_is_one_delta_of_each_request() -> None:
    client, ours, other = EngineClient(None, None), Deltas(), Deltas()
    client._readers.update({1: ours, 2: other})
    scores = (TokenLogprobs(-1.0),)
    steps = (
        StepReport(1, 0.1, (TokenDelta(1, (5,), prompt_logprobs=scores, queue_ms=3.0), TokenDelta(2, (7,)))),
        StepReport(2, 0.1, (TokenDelta(3, (9,)), TokenDelta(1, (6,)))),
        StepReport(3, 0.1, (TokenDelta(1, finish_reason="stop", stop_token_id=2),)),
    )
    encoder = FrameEncoder()
    client.data_received(b"".join(encoder.encode(step) for step in steps))
    assert [delta async for delta in ours] == [
        TokenDelta(1, (5, 6), "stop", 2, queue_ms=3.0, prompt_logprobs=scores)
    ]
    assert client.num_open == 1, "the other one has not ended"


async def test_leaving_a_request_frees_the_engine() -> None:
    reports = Reports()
    async with an_engine(on_report=reports) as client:
        async with generating(client, a_request(1, max_tokens=ENDLESS)) as deltas:
            async for _ in deltas:
                break
        reports.clear()
        await generate(client, a_request(2))
        assert reports[-1].num_running == 0
        assert reports[-1].free_blocks == (await client.ready).num_blocks


async def test_a_cancelled_reader_frees_the_engine() -> None:
    reports = Reports()
    async with an_engine(on_report=reports) as client:
        task = asyncio.create_task(generate(client, a_request(1, max_tokens=ENDLESS)))
        await reports.until(lambda report: report.num_running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        reports.clear()
        await generate(client, a_request(2))
        assert reports[-1].num_running == 0


async def test_who_waits_for_an_engine_to_read_counts_as_open_work() -> None:
    async with an_engine() as client:
        os.kill(client.pid, signal.SIGSTOP)
        tasks = [asyncio.create_task(generate(client, a_request(i, length=20_000))) for i in range(20)]
        await asyncio.sleep(0)
        for task in tasks[:-1]:
            task.cancel()
        await asyncio.wait(tasks[:-1])
        assert client.num_open == 1, "the watchdog looks at it"
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(EngineDied):
            await tasks[-1]


async def test_an_engine_that_is_killed_ends_every_generation_with_the_reason() -> None:
    reports = Reports()
    async with an_engine(on_report=reports) as client:
        tasks = [asyncio.create_task(generate(client, a_request(i, max_tokens=ENDLESS))) for i in range(5)]
        await reports.until(lambda report: report.num_running == 5)
        os.kill(client.pid, signal.SIGKILL)
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert {str(outcome) for outcome in outcomes} == {"the engine process was killed by SIGKILL"}
        assert all(isinstance(outcome, EngineDied) for outcome in outcomes)
        assert await client.ended == "the engine process was killed by SIGKILL"
        assert not client.alive
        with pytest.raises(EngineDied, match="SIGKILL"):
            await generate(client, a_request(9))


async def test_a_signal_without_a_name_ends_an_engine_like_any_other() -> None:
    async with an_engine() as client:
        os.kill(client.pid, signal.SIGRTMIN + 3)
        assert await asyncio.wait_for(client.ended, 10) == "the engine process was killed by signal 37"


async def test_a_request_that_cannot_run_is_answered_and_the_engine_goes_on() -> None:
    async with an_engine(EngineConfig(kind="sim", max_model_len=50)) as client:
        async with generating(client, a_request(1)) as deltas:
            received = [delta async for delta in deltas]
        assert received[0].finish_reason == "error"
        assert "--max-model-len" in (received[0].error or "")
        assert len(await generate(client, a_request(2, max_tokens=3, length=10))) == 3


async def test_a_warm_prefix_is_a_hit() -> None:
    reports = Reports()
    async with an_engine(on_report=reports) as client:
        client.warm(Warm(7, tuple(range(400, 500))))
        await reports.until(
            lambda report: any(delta.id == 7 and delta.finish_reason for delta in report.deltas)
        )
        client.hint(Hint(tuple(range(400, 500)), next_use=3))
        client.reprioritise(99, Objective(), ())
        async with generating(client, a_request(8)) as deltas:
            async for delta in deltas:
                assert delta.cached_tokens == 99


async def test_an_engine_that_cannot_load_says_why() -> None:
    client = await EngineClient.start(EngineConfig(kind="sim", kv_cache_memory=5))
    with pytest.raises(EngineDied, match="--kv-cache-memory 5 holds no block"):
        await client.ready
    assert "--kv-cache-memory" in await client.ended
    await client.close()
    client = await EngineClient.start(EngineConfig(kind="sim", block_size=48))
    with pytest.raises(EngineDied, match="--block-size 48 does not divide 256"):
        await client.ready
    await client.close()


async def test_several_engines_live_and_die_apart() -> None:
    async with an_engine() as one, an_engine() as other:
        os.kill(one.pid, signal.SIGKILL)
        await asyncio.wait_for(one.ended, 5)
        assert len(await generate(other, a_request())) == 20


async def test_closing_ends_the_process_and_what_is_open() -> None:
    reports = Reports()
    async with an_engine(on_report=reports) as client:
        task = asyncio.create_task(generate(client, a_request(1, max_tokens=ENDLESS)))
        await reports.until(lambda report: report.num_running == 1)
        await asyncio.wait_for(client.close(), 3)
        with pytest.raises(EngineDied, match="closed"):
            await task
        await client.close()
        with pytest.raises(ProcessLookupError):
            os.kill(client.pid, 0)


async def test_an_engine_in_a_long_step_is_killed_after_the_grace() -> None:
    reports = Reports()
    slow = EngineConfig(kind="sim", sim=SimConfig(base_ms=60_000))
    async with an_engine(slow, on_report=reports) as client:
        task = asyncio.create_task(generate(client, a_request()))
        await asyncio.sleep(0)
        await client.close(grace_s=0.2)
        with pytest.raises(EngineDied):
            await task


async def test_signals_for_the_group_do_not_end_an_engine() -> None:
    async with an_engine() as client:
        os.kill(client.pid, signal.SIGINT)
        os.kill(client.pid, signal.SIGTERM)
        assert len(await generate(client, a_request())) == 20


class RawEngine:
    """A worker process and the bare socket to it."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(10)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engine.worker", "--fd", str(theirs.fileno())],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                stderr=subprocess.DEVNULL,
            )
        self._buffer = FrameBuffer()
        self._received: list[object] = []

    def receive(self) -> object:
        """The next message; None at EOF."""
        while not self._received:
            data = self.socket.recv(65536)
            if not data:
                return None
            self._received.extend(decode_from_engine(payload) for payload in self._buffer.feed(data))
        return self._received.pop(0)

    def start(self, config: EngineConfig = CONFIG) -> None:
        self.socket.sendall(FrameEncoder().encode(config))
        while not isinstance(self.receive(), Ready):
            pass

    def end(self) -> int:
        self.socket.close()
        return self.process.wait(10)


def test_an_engine_whose_server_is_gone_exits() -> None:
    engine = RawEngine()
    engine.start()
    engine.socket.sendall(FrameEncoder().encode(a_request(1, max_tokens=ENDLESS)))
    assert isinstance(engine.receive(), StepReport)
    assert engine.end() == 0


def test_an_engine_that_is_never_configured_exits_with_its_server() -> None:
    assert RawEngine().end() == 0


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x02\x00\x00\x00\x80\x80"])
def test_a_garbage_frame_ends_the_engine_with_a_clear_error(garbage: bytes) -> None:
    engine = RawEngine()
    engine.start()
    engine.socket.sendall(garbage)
    failed = engine.receive()
    assert isinstance(failed, Failed)
    assert "broken frame" in failed.message
    assert engine.receive() is None
    assert engine.end() == 1


def test_a_garbage_configuration_ends_the_engine_with_a_clear_error() -> None:
    engine = RawEngine()
    engine.socket.sendall(b"\x02\x00\x00\x00\x80\x80")
    assert isinstance(engine.receive(), Failed)
    assert engine.end() == 1


def test_an_engine_whose_server_does_not_read_stops_stepping() -> None:
    engine = RawEngine()
    engine.start(EngineConfig(kind="sim", max_num_seqs=512, sim=SimConfig(base_ms=0, per_sequence_ms=0)))
    encoder = FrameEncoder()
    for index in range(512):
        engine.socket.sendall(encoder.encode(a_request(index, max_tokens=ENDLESS)))
    ticks = [0, 1]
    while ticks[-1] != ticks[-2]:  # until its CPU time stands still
        assert len(ticks) < 60
        ticks.append(_cpu_ticks(engine.process.pid))
        time.sleep(0.3)
    assert isinstance(engine.receive(), StepReport)
    assert engine.end() == 0


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_a_simulated_engine_needs_no_torch() -> None:
    code = (
        "import sys, engine.worker, engine.loop, engine.core, engine.client, engine.runner.simulated;"
        "print(sorted({'torch', 'transformers', 'triton'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
