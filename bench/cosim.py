"""Co-simulation: the server and N engines in one process, without HTTP, under one virtual clock.

    Service, Sessions, AppScheduler     as they are, on a VirtualLoop: their CPU time is charged, as one core's
    EngineCore x N                      real steps with a real model, one at a time; a step that takes d here ends d
                                        after it began on its engine's own clock
    clients, network                    coroutines on the same loop; a round trip is a jump of the clock

So N engines have the device to themselves in turn, and the times are those of N devices. Labelled "virtual N
engines"; `python -m bench cosim` checks it against wall time at N = 1.

With a model of a step in place of the device the same is a deterministic simulation, for finding out why.

Responsible for: that clock's honesty, and the same runs that `bench.compare` makes against a real server. Leaves
out: sockets, HTTP, and one engine's disturbing another.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, Self, TypeVar
from unittest import mock

import msgspec
from tokenizers import Tokenizer

from bench.apps import App, Done, Outputs, Step
from bench.bounds import Constants
from bench.compare import COUNTERS, Answered, Comparison, Run, together
from bench.modes import Mode
from bench.network import Network
from bench.virtual_time import Clock, VirtualLoop
from engine.batch import Runner, SampledTokens, ScheduledBatch
from engine.client import EngineClient
from engine.config import EngineConfig
from engine.core import EngineCore
from engine.ipc import FrameEncoder
from engine.runner.load import load_runner
from engine.runner.simulated import load_runner as load_simulated
from engine.step_model import Load, load_of
from engine.types import Loading, Objective, SamplingParams, Shutdown, StepReport, ToEngine
from parrot import wire
from server.flags import parse_config
from server.generation import GenerationParams
from server.service import Service
from server.tenant import ANONYMOUS

T = TypeVar("T")

SUCCESSOR_S = 0.0018
"""What the server takes for the successor of a call that has ended, where an engine waits for it."""


class ModelledSteps:
    """A stopwatch that stands in for `time.perf_counter`, and which only steps advance: by what a model says that
    they take, so that an engine learns of its steps what it would on the device."""

    def __init__(self, model: Constants) -> None:
        self._model = model
        self._seconds = 0.0

    def read(self) -> float:
        return self._seconds

    def time(self, runner: Runner) -> None:
        """From now on the runner's steps count."""
        compute = runner.run

        def run(batch: ScheduledBatch) -> SampledTokens:
            self._seconds += self._step_ms(load_of(batch)) / 1e3
            return compute(batch)

        setattr(runner, "run", run)  # noqa: B010 - a method, of a runner that is ours alone

    def _step_ms(self, load: Load) -> float:
        """B0 measures prefill in steps of 512 tokens, of which each has an `a`."""
        prefill_ms = max(0.0, self._model.p - self._model.a / 512) * load.prefill_tokens
        return self._model.step_ms(load.sequences, load.kv_tokens) + prefill_ms


class VirtualEngine(EngineClient):
    """An engine's client with the engine behind it, in place of a process.

    Messages are taken between steps, and a step begins when the one before it has ended: before the server hears of
    that, as in the real one; and where the real one waits for successors, SUCCESSOR_S later for each.
    """

    steps: ClassVar[ModelledSteps | None] = None
    """What times steps in place of a real clock."""

    def __init__(
        self, on_report: Callable[[StepReport], None] | None, on_loading: Callable[[Loading], None] | None
    ) -> None:
        super().__init__(on_report, on_loading)
        self._inbox: deque[ToEngine] = deque()
        self._busy = False
        self._encoder = FrameEncoder()

    _core: EngineCore

    @classmethod
    async def start(
        cls,
        config: EngineConfig,
        *,
        on_report: Callable[[StepReport], None] | None = None,
        on_loading: Callable[[Loading], None] | None = None,
    ) -> Self:
        engine = cls(on_report, on_loading)
        # One after another has the device, and so all its cores.
        whole = msgspec.structs.replace(config, cpu_cores=None)
        load = load_simulated if config.kind == "sim" else load_runner
        loaded = load(whole, lambda stage, fraction: None)
        if cls.steps is not None:
            cls.steps.time(loaded.runner)
        engine._core = EngineCore(loaded.runner, loaded.ready, frozenset(config.disabled))
        engine._ready.set_result(loaded.ready)
        return engine

    @property
    def pid(self) -> int:
        return 0

    async def close(self, grace_s: float = 5.0) -> None:
        if not self._ended.done():
            self._ended.set_result("the engine was closed")

    def _send(self, message: ToEngine | EngineConfig) -> None:
        assert not isinstance(message, EngineConfig)
        if isinstance(message, Shutdown):
            return
        self._inbox.append(message)
        if not self._busy:
            self._busy = True
            self._step(_clock().now())

    def _step(self, begin: float) -> None:
        """One real step, from `begin` on the engine's clock."""
        while self._inbox:
            message = self._inbox.popleft()
            assert not isinstance(message, Shutdown)
            self._core.take(message)
        if not self._core.has_work:
            self._busy = False
            return
        with _clock().stopped():
            begun = time.perf_counter()
            report = self._core.step()
            end = begin + time.perf_counter() - begun
        asyncio.get_running_loop().call_at(end, self._end_step, report, end)

    def _end_step(self, report: StepReport, end: float) -> None:
        frame, longest_s = self._encoder.encode(report), self._core.handover_s
        if longest_s < SUCCESSOR_S:
            self._step(end)
            self.data_received(frame)
        else:
            self.data_received(frame)
            begin = end + min(longest_s, SUCCESSOR_S * self._core.num_followed)
            asyncio.get_running_loop().call_at(begin, self._step, begin)


def _clock() -> Clock:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.clock


class World:
    """One server with its engines, and its clock; `flags` are run_server.py's.

    `model`: steps take what it says, and the server's callbacks no time, so that the same runs take the same times.
    """

    def __init__(self, *flags: str, model: Constants | None = None) -> None:
        self._loop = VirtualLoop()
        self._steps = None if model is None else ModelledSteps(model)
        self._engine = type("Engine", (VirtualEngine,), {"steps": self._steps})
        self.service = Service(parse_config(flags))
        self.run(self._load)

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Between two runs no time passes."""

        async def awaited() -> T:
            return await work()

        steps = self._steps
        with (
            self._loop.clock.running() if steps is None else mock.patch("time.perf_counter", steps.read),
            mock.patch("time.monotonic", self._loop.time),
            mock.patch("time.time", self._loop.time),
            mock.patch("server.scheduler.engine_pool.EngineClient", self._engine),
        ):
            return self._loop.run_until_complete(awaited())

    def close(self) -> None:
        self.run(self.service.close)
        self._loop.close()

    async def _load(self) -> None:
        self.service.start()
        while self.service.readiness().status == "loading":  # noqa: ASYNC110 - it waits in virtual time
            await asyncio.sleep(0.01)
        status = self.service.readiness()
        assert status.status == "ready", status

    # As `bench.compare.Client`.

    async def run_app(self, app: App, network: Network, *, programs: bool) -> Done:
        if app.late_s is not None:
            return await self._with_late_input(app, network, programs=programs)
        if programs and not (app.plain and app.tpot_ms is None):
            return await self._as_program(app, network)
        return await self._as_requests(app, network)

    async def _as_program(self, app: App, network: Network) -> Done:
        sessions = self.service.sessions
        request = msgspec.convert(app.program(), wire.ProgramRequest)
        times: list[float] = []
        async with network.exchange():
            program = sessions.start_program(ANONYMOUS, request, None)
            if app.tpot_ms is not None:
                async for events in sessions.program_events(program, None):
                    deltas = sum(isinstance(event, wire.VariableDelta) for event in events)
                    times += [_clock().now()] * deltas
            answer = await sessions.program_answer(program, None)
        if answer.status != "done":
            raise RuntimeError(f"a program ended as {answer.status}: {answer.errors}")
        token_ms = _token_ms(times, app) if app.tpot_ms is not None else None
        return Done({name: answer.values[name] for name in app.wanted}, token_ms)

    async def _with_late_input(self, app: App, network: Network, *, programs: bool) -> Done:
        assert app.late_s is not None
        if not programs:
            await asyncio.sleep(app.late_s)
            return await self._as_requests(app, network)
        sessions, due = self.service.sessions, _clock().now() + app.late_s
        async with network.exchange():
            id = sessions.create_session(ANONYMOUS, wire.SessionRequest()).id
        calls = msgspec.convert([step.call() for step in app.steps], list[wire.Call])
        async with network.exchange():
            sessions.submit(ANONYMOUS, id, calls)
        await asyncio.sleep(due - _clock().now())
        for name, value in app.given.items():
            async with network.exchange():
                sessions.set_variable(ANONYMOUS, id, name, value)
        async with network.exchange():
            answer = await sessions.get_many(ANONYMOUS, id, wire.GetRequest(variables=list(app.wanted)))
        async with network.exchange():
            sessions.delete_session(ANONYMOUS, id)
        return Done({name: answer.values[name] for name in app.wanted})

    async def _as_requests(self, app: App, network: Network) -> Done:
        outputs: Outputs = {}
        times: list[float] = []
        done = {step.name: asyncio.Event() for step in app.steps}

        async def run(step: Step) -> None:
            for name in step.inputs:
                await done[name].wait()
            async with network.exchange():
                outputs[step.name] = await self._complete(step.render(outputs), step.max_tokens, times)
            done[step.name].set()

        async with asyncio.TaskGroup() as group:
            for step in app.steps:
                group.create_task(run(step))
        token_ms = _token_ms(times, app) if app.tpot_ms is not None else None
        return Done({name: outputs[name] for name in app.wanted}, token_ms)

    async def _complete(self, prompt: str, max_tokens: int, times: list[float]) -> str:
        service = self.service
        sampling = SamplingParams(max_tokens, 0, temperature=0.0, ignore_eos=True)
        texts: list[str] = []
        async with service.generate(
            await service.tokenize(prompt, True),
            GenerationParams(sampling),
            tenant=ANONYMOUS,
            objective=Objective(),
            request_id=f"request-{service.dispatcher.new_task_id()}",
        ) as generation:
            async for delta in generation:
                times.append(_clock().now())
                texts.append(delta.text)
        return "".join(texts)

    def counters(self) -> dict[str, float]:
        """As the server's /metrics names them."""
        metrics = self.service.metrics
        names = ("prefix_queries", "prefix_hits", "evictions", "preemptions", "steps")
        sums = [float(sum(getattr(load, name) for load in metrics.engines.values())) for name in names]
        totals = (metrics.generation_tokens, metrics.eager_tokens, metrics.eager_tokens_used)
        return dict(zip(COUNTERS, [*sums, *map(float, totals)], strict=True))


def _token_ms(times: Sequence[float], app: App) -> float:
    return (times[-1] - times[0]) * 1e3 / max(1, app.steps[0].max_tokens - 1)


class VirtualComparison(Comparison):
    """As Comparison, in virtual time."""

    def __init__(
        self,
        modes: Sequence[Mode],
        flags: Sequence[str],
        tokenizer: Tokenizer | None = None,
        model: Constants | None = None,
    ) -> None:
        super().__init__(modes, flags, tokenizer)
        self._model = model
        self._worlds: dict[str, World] = {}

    def __enter__(self) -> VirtualComparison:
        for mode in self._modes:
            world = self._worlds[mode.name] = World(*self._flags, *mode.flags, model=self._model)
            self._stack.callback(world.close)
        return self

    def _one(self, mode: Mode, run: Run) -> tuple[Answered, dict[str, float]]:
        world = self._worlds[mode.name]
        before = world.counters()
        answered = world.run(lambda: together(world.run_app, mode, run))
        after = world.counters()
        return answered, {name: after[name] - before[name] for name in COUNTERS}
