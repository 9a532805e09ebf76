"""Requests through one EngineCore in this process: what came out, and when.

Responsible for: prompts of random ids, the loop of steps, and what is timed: the ends of steps on the host's
clock, which is when a server would have the tokens. Leaves to others: engines (`engines`), and what times mean.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.core import EngineCore
from engine.types import Generate, SamplingParams, StepReport, TokenLogprobs

Ids = tuple[int, ...]


def prompt(rng: random.Random, vocab: int, length: int) -> Ids:
    return tuple(rng.choices(range(vocab), k=length))


def request(id: int, token_ids: Ids, output: int, logprobs: int | None = None) -> Generate:
    """Greedy, exactly `output` tokens."""
    sampling = SamplingParams(output, id, temperature=0.0, ignore_eos=True, logprobs=logprobs)
    return Generate(id, token_ids, sampling)


@dataclass(slots=True)
class Answer:
    """One request's tokens; times are seconds from the start of its run."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    first_s: float = 0.0
    last_s: float = 0.0
    cached_tokens: int = 0
    ended: str | None = None

    @property
    def per_token_s(self) -> float:
        """After the first."""
        return (self.last_s - self.first_s) / max(1, len(self.tokens) - 1)


@dataclass(frozen=True, slots=True)
class Step:
    """The end of a step (seconds from the start), and what it was."""

    end_s: float
    num_tokens: int
    num_running: int
    shared_kv_bytes: int


@dataclass(slots=True)
class Outcome:
    """All requests of a run, by id, and its steps."""

    answers: dict[int, Answer]
    steps: list[Step]
    seconds: float

    @property
    def output_tokens(self) -> int:
        return sum(len(answer.tokens) for answer in self.answers.values())

    @property
    def shared_kv_bytes(self) -> int:
        return sum(step.shared_kv_bytes for step in self.steps)

    def median_decode_s(self) -> float | None:
        """Between the ends of steps while every request decodes: after the last one's first token and before
        the first one's end. None: there are no two such steps."""
        begin = max(answer.first_s for answer in self.answers.values())
        end = min(answer.last_s for answer in self.answers.values())
        times = [step.end_s for step in self.steps if begin <= step.end_s <= end]
        gaps = [after - before for before, after in itertools.pairwise(times)]
        return statistics.median(gaps) if gaps else None

    def problem(self, requests: Sequence[Generate]) -> str:
        """What is wrong with the answers; empty: every request has all its tokens."""
        for item in requests:
            answer = self.answers[item.id]
            if answer.ended != "length" or len(answer.tokens) != item.sampling.max_tokens:
                return f"request {item.id} ended with {answer.ended} after {len(answer.tokens)} tokens"
        return ""


def drive(core: EngineCore, requests: Sequence[Generate]) -> Outcome:
    """Give the engine all requests and step until all have ended."""
    answers = {item.id: Answer() for item in requests}
    steps: list[Step] = []
    for item in requests:
        core.take(item)
    begun = time.perf_counter()
    while core.has_work:
        report = core.step()
        now = time.perf_counter() - begun
        _take(report, answers, now)
        if report.num_tokens:
            steps.append(Step(now, report.num_tokens, report.num_running, report.shared_kv_bytes))
    return Outcome(answers, steps, time.perf_counter() - begun)


def _take(report: StepReport, answers: dict[int, Answer], now: float) -> None:
    for delta in report.deltas:
        answer = answers[delta.id]
        if delta.token_ids:
            if not answer.tokens:
                answer.first_s, answer.cached_tokens = now, delta.cached_tokens
            answer.last_s = now
            answer.tokens.extend(delta.token_ids)
            answer.logprobs.extend(delta.logprobs)
        if delta.finish_reason is not None:
            answer.ended = delta.error or delta.finish_reason
