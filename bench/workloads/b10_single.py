"""B10 on one engine, in this process: chats with a limit on their time per token, beside batch work.

    capped      every request waits until the engine holds no more than its capacity at the limit
    uncapped    first come, first served: all that fits in memory runs
    ours        all are given to the engine; objective-aware batching decides step by step

The same mixed traffic in all three: chats come again and again, a fixed number at a time, until the batch work is
done; where requests wait, a chat goes first, so that only the time per token differs. Chat time per token against
`capped`, batch time against `uncapped`. One device computes both, so the bound of the latter is what the constants
leave beside chats that always keep their limit: nearly, as there is no limit while no chat decodes.

`--modelled`: steps take what the constants say, and `--slower` times that, while limit and capacity stay: what an
engine does that has become slower than it was when somebody chose a limit.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from unittest import mock

from bench.bounds import Constants, Load, paced
from bench.checkpoint import SHAPES, checkpoint
from bench.constants import Point
from bench.cosim import ModelledSteps
from bench.report import Report, paired
from bench.stats import percentile
from bench.workloads.b0 import constants_of, load, measure
from engine.config import EngineConfig, SimConfig
from engine.core import EngineCore
from engine.runner.loaded import LoadedRunner
from engine.runner.simulated import load_runner as load_simulated
from engine.types import Generate, Objective, SamplingParams, Urgency

MODES = ("capped", "uncapped", "ours")
CHAT, JOB = (100, 60), (300, 100)
"""(prompt, output) tokens of a chat and of a call of the batch work."""

BAR = 1.1


@dataclass(frozen=True, slots=True)
class Result:
    """Milliseconds: of each chat, its time per token after the first; of the batch work, all of it."""

    chat_ms: list[float]
    batch_ms: float


@dataclass(slots=True)
class Traffic:
    """One run of one mode. `admitted` requests are in the engine, the others wait here."""

    core: EngineCore
    limit_ms: float | None
    room: int | None  # tokens
    chats: int
    jobs: int
    rng: random.Random
    held: dict[int, int] = field(default_factory=dict)
    waiting: deque[Generate] = field(default_factory=deque)
    first_token: dict[int, float] = field(default_factory=dict)
    chat_ms: list[float] = field(default_factory=list)

    def run(self) -> Result:
        ids = itertools.count(1)
        jobs = {next(ids) for _ in range(self.jobs)}
        self.waiting.extend(self._request(id, JOB, Objective(Urgency.THROUGHPUT)) for id in sorted(jobs))
        chat = Objective(Urgency.LATENCY, self.limit_ms)
        chatting: set[int] = set()
        begun = time.perf_counter()
        while jobs:
            while len(chatting) < self.chats:
                chatting.add(id := next(ids))
                self.waiting.appendleft(self._request(id, CHAT, chat))
            self._admit()
            ended = self._step(chatting)
            jobs -= ended
            chatting -= ended
        return Result(self.chat_ms, (time.perf_counter() - begun) * 1e3)

    def _request(self, id: int, size: tuple[int, int], objective: Objective) -> Generate:
        prompt = tuple(self.rng.randrange(300, 4000) for _ in range(size[0]))
        sampling = SamplingParams(size[1], 0, temperature=0.0, ignore_eos=True)
        return Generate(id, prompt, sampling, objective)

    def _admit(self) -> None:
        while self.waiting:
            needed = len(self.waiting[0].token_ids) + self.waiting[0].sampling.max_tokens
            if self.room is not None and self.held and sum(self.held.values()) + needed > self.room:
                return
            request = self.waiting.popleft()
            self.held[request.id] = needed
            self.core.take(request)

    def _step(self, chatting: set[int]) -> set[int]:
        ended = set()
        report = self.core.step()
        now = time.perf_counter()
        for delta in report.deltas:
            first = self.first_token.setdefault(delta.id, now)
            if delta.finish_reason is not None:
                ended.add(delta.id)
                del self.held[delta.id]
                if delta.id in chatting:
                    self.chat_ms.append((now - first) * 1e3 / (CHAT[1] - 1))
        return ended


def run(
    loaded: LoadedRunner, mode: str, limit_ms: float, room: int, chats: int, jobs: int, seed: int
) -> Result:
    core = EngineCore(loaded.runner, loaded.ready, frozenset())
    traffic = Traffic(core, None, None, chats, jobs, random.Random(seed))
    if mode == "capped":
        traffic = replace(traffic, room=room)
    elif mode == "ours":
        traffic = replace(traffic, limit_ms=limit_ms)
    return traffic.run()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench b10_single", description=__doc__)
    parser.add_argument("--model", choices=SHAPES, default="tiny")
    parser.add_argument("--target", type=float, default=1.5, help="the limit, over a step of the chats alone")
    parser.add_argument("--chats", type=int, default=2, help="at a time")
    parser.add_argument("--jobs", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--modelled", action="store_true")
    parser.add_argument("--slower", type=float, default=1.0, help="with --modelled")
    args = parser.parse_args(argv)
    folder, constants = str(checkpoint(SHAPES[args.model])), constants_of(args.model).constants
    counts = [args.chats, 4, 8, 16]
    with ExitStack() as stack:
        if args.modelled:
            points = [_modelled_point(constants, count) for count in counts]
            constants = _scaled(constants, args.slower)
            loaded = stack.enter_context(modelled(folder, constants))
        else:
            loaded = load(folder)
            points = list(measure(loaded, counts, [256]))
        limit_ms = args.target * points[0].decode_ms
        room = max((p.sequences * p.context for p in points if p.p90_ms <= limit_ms), default=0)
        results = compare(loaded, limit_ms, room, args)
    report = Report("B10-single" + " modelled" * args.modelled, vars(args), constants)
    best = paced(constants, limit_ms, Load(args.chats, *CHAT), Load(args.jobs, *JOB))
    add_results(report, results, f"limit={limit_ms:.2f}ms room={room}", best)
    return report.finish()


def _modelled_point(constants: Constants, sequences: int) -> Point:
    step_ms = constants.step_ms(sequences, sequences * 256)
    return Point(sequences, 256, step_ms, step_ms, 0.0)


def _scaled(constants: Constants, factor: float) -> Constants:
    a, b, c, p = (factor * each for each in (constants.a, constants.b, constants.c, constants.p))
    return Constants(a, b, c, p, constants.kv_bytes)


@contextmanager
def modelled(folder: str, constants: Constants) -> Iterator[LoadedRunner]:
    """An engine whose steps take what the constants say, by `time.perf_counter`."""
    steps = ModelledSteps(constants)
    config = EngineConfig(
        kind="sim", model=folder, sim=SimConfig(base_ms=0.0, per_sequence_ms=0.0, per_prefill_token_ms=0.0)
    )
    loaded = load_simulated(config, lambda stage, fraction: None)
    steps.time(loaded.runner)
    with mock.patch("time.perf_counter", steps.read):
        yield loaded


def compare(
    loaded: LoadedRunner, limit_ms: float, room: int, args: argparse.Namespace
) -> dict[str, list[Result]]:
    results: dict[str, list[Result]] = {mode: [] for mode in MODES}
    for seed in range(args.seeds):
        for mode in (*MODES[seed % 3 :], *MODES[: seed % 3]):
            result = run(loaded, mode, limit_ms, room, args.chats, args.jobs, seed)
            results[mode].append(result)
            p90_ms = percentile(result.chat_ms, 0.9)
            print(
                f"{mode:9} chat p50 {statistics.median(result.chat_ms):6.2f} ms p90 {p90_ms:6.2f} "
                f"({len(result.chat_ms)}) batch {result.batch_ms:8.0f} ms"
            )
    return results


def add_results(report: Report, results: dict[str, list[Result]], point: str, job_bound: float) -> None:
    """Ratios over the baselines: below one is better, unlike elsewhere."""
    chat = {mode: [statistics.median(result.chat_ms) for result in results[mode]] for mode in MODES}
    batch = {mode: [result.batch_ms for result in results[mode]] for mode in MODES}
    report.keep("results", {mode: [asdict(result) for result in results[mode]] for mode in MODES})
    for name, values, baseline, best in (
        ("chat-token-p50", chat, "capped", None),
        ("job", batch, "uncapped", max(job_bound, 1.0)),
    ):
        ratio = paired(
            f"{point} {name}",
            ("", ""),
            values[baseline],
            values["ours"],
            bound=best,
            at_most=BAR,
        )
        report.add(replace(ratio, pair=f"ours/{baseline}"))
