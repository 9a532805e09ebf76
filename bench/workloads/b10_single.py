"""B10 on one engine, in this process: chats with a limit on their time per token, beside batch work.

    capped      every request waits until the engine holds no more than its capacity at the limit
    uncapped    first come, first served: all that fits in memory runs
    ours        all are given to the engine; objective-aware batching decides step by step

The same mixed traffic in all three: chats come again and again, a fixed number at a time, until the batch work is
done; where requests wait, a chat goes first, so that only the time per token differs. Chat time per token against
`capped`, batch time against `uncapped`.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections import deque
from dataclasses import asdict, dataclass, field, replace

from bench.checkpoint import SHAPES, checkpoint
from bench.report import Report, paired
from bench.stats import percentile
from bench.workloads.b0 import constants_of, load, measure
from engine.core import EngineCore
from engine.runner.loaded import LoadedRunner
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
    args = parser.parse_args(argv)
    loaded = load(str(checkpoint(SHAPES[args.model])))
    points = list(measure(loaded, [args.chats, 4, 8, 16], [256]))
    limit_ms = args.target * points[0].decode_ms
    room = max((p.sequences * p.context for p in points if p.p90_ms <= limit_ms), default=0)
    report = Report("B10-single", vars(args), constants_of(args.model).constants)
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
    chat = {mode: [statistics.median(result.chat_ms) for result in results[mode]] for mode in MODES}
    batch = {mode: [result.batch_ms for result in results[mode]] for mode in MODES}
    report.keep("results", {mode: [asdict(result) for result in results[mode]] for mode in MODES})
    for name, values, baseline in (("chat-token-p50", chat, "capped"), ("job", batch, "uncapped")):
        point = f"limit={limit_ms:.2f}ms room={room} {name}"
        ratio = paired(point, ("", ""), values[baseline], values["ours"], at_most=BAR)
        report.add(replace(ratio, pair=f"ours/{baseline}"))
    return report.finish()
