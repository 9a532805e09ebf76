"""The dispatcher with real engine processes: whatever ends a task, nothing of it is left."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from engine.client import EngineClient
from engine.config import EngineConfig, SimConfig
from engine.types import Objective, Salt, SamplingParams, TokenDelta, TokenLogprobs, Urgency
from server.admission import Admission, Bounds
from server.config import BUNDLED_MODEL
from server.errors import DeadlineExceeded, EngineFailed, TooSlow
from server.generation import GenerationParams, TextDelta
from server.metrics import Metrics
from server.scheduler.app_scheduler import AppScheduler
from server.scheduler.dispatcher import Dispatcher, Generation, Work
from server.scheduler.events import TaskSpec
from server.scheduler.lives import MAX_MERGED, MAX_UNREAD, Tap
from server.tokenizer import Tokenizer

POISON = 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(Path(BUNDLED_MODEL))


class Rig:
    """A dispatcher with one engine; `check` is what has to hold when all is over."""

    def __init__(self, tokenizer: Tokenizer, request_timeout_s: float | None) -> None:
        self.tokenizer = tokenizer
        self.scheduler = AppScheduler()
        self.admission = Admission(Bounds(64, 100, 10_000))
        self.metrics = Metrics("sim")
        self.dispatcher = Dispatcher(
            self.scheduler,
            self.metrics,
            self.admission,
            step_timeout_s=30.0,
            request_timeout_s=request_timeout_s,
        )

    @property
    def engine(self) -> int:
        return self.dispatcher.pool.client(0).pid

    def work(self, max_tokens: int, prompt: tuple[int, ...] = (500, 501, 502)) -> Work:
        spec = TaskSpec(
            task_id=self.dispatcher.new_task_id(), app="a", num_tokens=len(prompt), max_tokens=max_tokens
        )
        sampling = SamplingParams(max_tokens=max_tokens, seed=1)
        return Work(spec, prompt, GenerationParams(sampling), (Salt(0, b""),))

    async def tokens(
        self, work: Work, entered: asyncio.Event | None = None, tap: Tap = lambda delta: False
    ) -> list[int]:
        tokens: list[int] = []
        async with self.dispatcher.generate(work, self.tokenizer) as generation:
            generation.tap(tap)
            async for delta in generation:
                tokens += delta.token_ids
                if entered is not None:
                    entered.set()
        return tokens

    def check(self) -> None:
        self.scheduler.check_invariants()
        self.admission.check_invariants()
        assert self.dispatcher.num_tasks == self.admission.in_flight == self.admission.queued_tokens == 0
        assert self.scheduler.num_queued == 0


@asynccontextmanager
async def a_rig(
    tokenizer: Tokenizer, *, up: bool = True, request_timeout_s: float | None = None
) -> AsyncIterator[Rig]:
    rig = Rig(tokenizer, request_timeout_s)
    if up:
        sim = SimConfig(vocab_size=tokenizer.vocab_size, base_ms=1.0, crash_token=POISON)
        rig.dispatcher.pool.start([EngineConfig(kind="sim", sim=sim)])
        await rig.dispatcher.pool.wait_ready()
    try:
        yield rig
        await asyncio.wait_for(rig.dispatcher.idle(), 5)
        rig.check()
    finally:
        await rig.dispatcher.pool.close()


async def test_a_task_that_is_cancelled_before_it_has_a_place_leaves_nothing(tokenizer: Tokenizer) -> None:
    async with a_rig(tokenizer, up=False) as rig:
        job = asyncio.create_task(rig.tokens(rig.work(10)))
        await asyncio.sleep(0)
        assert rig.dispatcher.num_tasks == rig.scheduler.num_queued == 1
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job


async def test_a_task_goes_on_where_it_was_and_ends_with_the_tokens_of_an_undisturbed_one(
    tokenizer: Tokenizer,
) -> None:
    async with a_rig(tokenizer) as rig:
        undisturbed = await rig.tokens(rig.work(200))
        entered = asyncio.Event()
        job = asyncio.create_task(rig.tokens(rig.work(200), entered))
        await entered.wait()
        os.kill(rig.engine, signal.SIGKILL)
        assert await job == undisturbed
        assert rig.metrics.engines[0].deaths == 1


async def test_an_engine_that_dies_while_it_loads_again_is_not_held_against_who_waits_for_it(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.scheduler.restarts.FIRST_DELAY_S", 0.01)
    async with a_rig(tokenizer) as rig:
        os.kill(rig.engine, signal.SIGSTOP)  # so that no token comes before it dies
        job = asyncio.create_task(rig.tokens(rig.work(5)))
        killed: list[EngineClient] = []
        while len(killed) < 3:
            await asyncio.sleep(0.01)
            client = rig.dispatcher.pool.client(0)
            if client not in killed:
                os.kill(client.pid, signal.SIGKILL)
                killed.append(client)
        assert len(await job) == 5


async def test_a_deadline_ends_a_task_wherever_it_is(tokenizer: Tokenizer) -> None:
    async with a_rig(tokenizer, request_timeout_s=0.1) as rig:
        with pytest.raises(DeadlineExceeded, match="--request-timeout"):
            await rig.tokens(rig.work(10_000))
        os.kill(rig.engine, signal.SIGKILL)
        await rig.dispatcher.pool.client(0).ended
        with pytest.raises(DeadlineExceeded):
            await rig.tokens(rig.work(10_000))


async def test_a_suspect_that_is_cancelled_lets_the_next_one_be_tried(tokenizer: Tokenizer) -> None:
    async with a_rig(tokenizer) as rig:
        poisons = [asyncio.create_task(rig.tokens(rig.work(5, (500, POISON, n)))) for n in (510, 511)]
        healthy = asyncio.create_task(rig.tokens(rig.work(5)))
        done, _ = await asyncio.wait(poisons, return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(done.pop().exception(), EngineFailed)
        for poison in poisons:
            poison.cancel()
        assert len(await healthy) == 5
        await asyncio.wait(poisons)


async def test_a_generation_that_is_left_early_is_aborted_and_the_next_one_runs(tokenizer: Tokenizer) -> None:
    async with a_rig(tokenizer) as rig:
        async with rig.dispatcher.generate(rig.work(10_000), tokenizer) as generation:
            assert isinstance(generation, Generation)
            await anext(generation)
        assert len(await rig.tokens(rig.work(7))) == 7


async def test_what_an_engine_learns_of_its_steps_is_what_a_limit_is_held_against(
    tokenizer: Tokenizer,
) -> None:
    async with a_rig(tokenizer) as rig:

        async def placed_with_a_limit() -> str:
            work = rig.work(2)
            limit = Objective(Urgency.LATENCY, step_limit_ms=0.01)
            spec = msgspec.structs.replace(work.spec, objective=limit)
            await rig.tokens(replace(work, spec=spec))
            return next(line for line in rig.scheduler.story(spec.task_id) if "placed" in line)

        assert "fits" in await placed_with_a_limit()
        await rig.tokens(rig.work(200))
        assert "does not fit" in await placed_with_a_limit()


async def test_deltas_that_come_faster_than_they_are_read_are_one(tokenizer: Tokenizer) -> None:
    async with a_rig(tokenizer) as rig:
        work = rig.work(20)
        id = work.spec.task_id
        scores = (TokenLogprobs(-1.0),)
        async with rig.dispatcher.generate(work, tokenizer) as generation:
            generation.push(TokenDelta(id, (500,), cached_tokens=2, prompt_logprobs=scores))
            generation.push(TokenDelta(id, (501, 502), cached_tokens=9))
            generation.push(TokenDelta(id, finish_reason="length"))
            (delta,) = [delta async for delta in generation]
        assert delta.text == tokenizer.decode([500, 501, 502])
        assert (delta.token_ids, delta.finish_reason) == ((500, 501, 502), "length")
        assert (delta.cached_tokens, delta.prompt_logprobs) == (2, scores)


async def test_who_reads_far_too_slowly_gets_what_there_is_and_frees_the_engine(tokenizer: Tokenizer) -> None:
    read: list[int] = []

    async def next_one(generation: Generation) -> None:
        read.append(len((await anext(generation)).token_ids))

    async with a_rig(tokenizer) as rig:
        work = rig.work(30_000)
        async with rig.dispatcher.generate(work, tokenizer) as generation:
            for _ in range(MAX_UNREAD + 1):
                generation.push(TokenDelta(work.spec.task_id, (500,)))
            assert rig.dispatcher.pool.client(0).num_open == 0
            for _ in range(MAX_UNREAD // MAX_MERGED):
                await next_one(generation)
            with pytest.raises(TooSlow, match="does not keep up"):
                await next_one(generation)
    assert set(read) == {MAX_MERGED}


async def test_a_tap_takes_deltas_while_the_reader_waits_and_leaves_it_the_rest(tokenizer: Tokenizer) -> None:
    order: list[int] = []
    offered = itertools.count()

    def some(delta: TextDelta) -> bool:
        """Two of three."""
        taken = next(offered) % 3 > 0
        if taken:
            order.extend(delta.token_ids)
        return taken

    async with a_rig(tokenizer) as rig:
        whole = await rig.tokens(rig.work(20))
        read = await rig.tokens(rig.work(20), tap=some)
    assert sorted(read + order) == sorted(whole)
    rest = iter(whole)
    assert all(id in rest for id in order), "in order"
    assert order


async def test_what_a_tap_raises_ends_the_generation_and_not_its_engine(tokenizer: Tokenizer) -> None:
    def gone(_: TextDelta) -> bool:
        raise ConnectionResetError("the client has left")

    async with a_rig(tokenizer) as rig:
        with pytest.raises(ConnectionResetError):
            await rig.tokens(rig.work(10_000), tap=gone)
        assert len(await rig.tokens(rig.work(7))) == 7
