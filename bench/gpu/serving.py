"""B14, the serving numbers, on an engine in this process, and once through HTTP.

    single          one stream: 128 tokens in, 128 out
    16 at once      512 in, 128 out, all at the same time
    shared prefix   16 requests with 1024 tokens in common and 32 of their own, with the prefix cache and without
    long prompt     8192 tokens to the first token

Gates: every request has all its tokens; with the prefix cache and without, tokens agree, and the cached tokens are
those in common. Over HTTP the tokens are the engine's in this process.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass

from bench.gpu.agreement import compare
from bench.gpu.drive import Ids, Outcome, drive, prompt, request
from bench.gpu.engines import UNSHARED
from bench.gpu.report import AddRow
from bench.gpu.sections import Bench
from bench.gpu.shapes import ModelShape, large_model, small_model
from bench.gpu.streams import serve_streams
from engine.core import EngineCore
from engine.types import Generate


@dataclass(frozen=True, slots=True)
class Sizes:
    """In tokens."""

    single: tuple[int, int]  # (prompt, output)
    streams: int
    each: tuple[int, int]
    prefix: int
    own: tuple[int, int]
    long: int


FULL = Sizes((128, 128), 16, (512, 128), 1024, (32, 64), 8192)
SMALL = Sizes((32, 16), 4, (64, 16), 256, (16, 8), 512)


def run(bench: Bench) -> None:
    sizes = SMALL if bench.small else FULL
    row = bench.report.table(
        "B14 in process", "model, case", "ttft ms", "ms/token", "in tok/s", "out tok/s", "x floor"
    )
    small, large = small_model(bench.small), large_model(bench.small)
    _in_process(bench, small, sizes, row)
    if bench.time_for("B14 through HTTP", 0.0 if bench.small else 15.0):
        _through_http(bench, small, sizes)
    _in_process(bench, large, sizes, row)  # last: the next section goes on with this model


def _in_process(bench: Bench, shape: ModelShape, sizes: Sizes, row: AddRow) -> None:
    if bench.room_for(shape) and bench.time_for(shape.name, 5.0):
        _warm(bench, shape, sizes)
        _single(bench, shape, sizes, row)
        _at_once(bench, shape, sizes, row)
        _shared_prefix(bench, shape, sizes, row)
        _long_prompt(bench, shape, sizes, row)


def _warm(bench: Bench, shape: ModelShape, sizes: Sizes) -> None:
    """What the first steps of a kind cost once."""
    rng = random.Random(0)
    for lengths in ((sizes.long,), (sizes.each[0],) * sizes.streams):
        requests = [request(i, prompt(rng, shape.vocab, n), 4) for i, n in enumerate(lengths)]
        drive(bench.engines.core(shape), requests)


def _single(bench: Bench, shape: ModelShape, sizes: Sizes, row: AddRow) -> None:
    length, output = sizes.single
    outcome = _drive(
        bench, shape, "single", [request(0, prompt(random.Random(2), shape.vocab, length), output)]
    )
    if outcome is not None:
        contexts = [length + output // 2]
        floor = bench.machine.floor(shape.decode_bytes(contexts), shape.decode_operations(contexts))
        _row(row, f"{shape.name}, single", outcome, length, outcome.answers[0].per_token_s / floor)


def _at_once(bench: Bench, shape: ModelShape, sizes: Sizes, row: AddRow) -> None:
    rng, (length, output) = random.Random(3), sizes.each
    requests = [request(i, prompt(rng, shape.vocab, length), output) for i in range(sizes.streams)]
    outcome = _drive(bench, shape, f"{sizes.streams} at once", requests)
    if outcome is not None:
        contexts = [length + output // 2] * sizes.streams
        floor = bench.machine.floor(shape.decode_bytes(contexts), shape.decode_operations(contexts))
        total = sizes.streams * length
        _row(row, f"{shape.name}, {sizes.streams} at once", outcome, total, _per_token(outcome) / floor)


def _shared_prefix(bench: Bench, shape: ModelShape, sizes: Sizes, row: AddRow) -> None:
    rng, (own, output) = random.Random(4), sizes.own
    common = prompt(rng, shape.vocab, sizes.prefix)
    prompts = [common + prompt(rng, shape.vocab, own) for _ in range(sizes.streams)]
    requests = [request(i, ids, output) for i, ids in enumerate(prompts)]
    with_logprobs = [request(i, ids, output, 2) for i, ids in enumerate(prompts)]
    reference = drive(bench.engines.core(shape, UNSHARED), with_logprobs)
    without = drive(bench.engines.core(shape, UNSHARED), requests)
    checked, shared = (
        _after(bench.engines.core(shape), common, batch) for batch in (with_logprobs, requests)
    )
    pairs = [
        (reference.answers[item.id], other.answers[item.id])
        for other in (checked, shared)
        for item in requests
    ]
    same = compare(pairs, shape.vocab, exact=not bench.machine.cuda)
    block = bench.engines.runner(shape).ready.block_size
    cached = min(answer.cached_tokens for answer in shared.answers.values())
    right = same.ok and cached >= sizes.prefix - block and not shared.problem(requests)
    name = f"{shape.name}, shared prefix"
    if bench.report.gate(name, right, f"{same}; {cached} of {sizes.prefix} tokens cached"):
        total = len(requests) * (sizes.prefix + own)
        _row(row, f"{name}, no cache", without, total, None)
        _row(row, name, shared, total, None)


def _after(core: EngineCore, common: Ids, requests: list[Generate]) -> Outcome:
    """The requests once their common prefix is in the cache."""
    drive(core, [request(0, common, 1)])
    return drive(core, requests)


def _long_prompt(bench: Bench, shape: ModelShape, sizes: Sizes, row: AddRow) -> None:
    requests = [request(0, prompt(random.Random(5), shape.vocab, sizes.long), 1)]
    outcome = _drive(bench, shape, "long prompt", requests)
    if outcome is not None:
        floor = shape.prefill_operations(sizes.long) / bench.machine.rate
        label = f"{shape.name}, {sizes.long} tokens in"
        _row(row, label, outcome, sizes.long, outcome.answers[0].first_s / floor)


def _drive(bench: Bench, shape: ModelShape, name: str, requests: list[Generate]) -> Outcome | None:
    """None, and a gate that failed: a request did not get its tokens."""
    outcome = drive(bench.engines.core(shape), requests)
    problem = outcome.problem(requests)
    return outcome if bench.report.gate(f"{shape.name}, {name}", not problem, problem) else None


def _row(row: AddRow, label: str, outcome: Outcome, tokens_in: int, over_floor: float | None) -> None:
    answers = outcome.answers.values()
    first = statistics.median(answer.first_s for answer in answers)
    prefilled = max(answer.first_s for answer in answers)
    each = _per_token(outcome) * 1e3 if outcome.output_tokens > len(answers) else None
    out = outcome.output_tokens / outcome.seconds if each is not None else None
    row(label, first * 1e3, each, tokens_in / prefilled, out, over_floor)


def _per_token(outcome: Outcome) -> float:
    return statistics.median(answer.per_token_s for answer in outcome.answers.values())


def _through_http(bench: Bench, shape: ModelShape, sizes: Sizes) -> None:
    """The model behind run_server.py: streamed completions of token ids on this machine's loopback."""
    rng = random.Random(3)
    prompts = [prompt(rng, shape.vocab, sizes.each[0]) for _ in range(sizes.streams)]
    expected = drive(
        bench.engines.core(shape),
        [request(i, ids, sizes.each[1], logprobs=2) for i, ids in enumerate(prompts)],
    )
    bench.engines.close()  # its memory is the server's now
    row = bench.report.table("B14 through HTTP", "model, case", "ttft ms", "ms/token", "out tok/s")
    for name, run in serve_streams(shape, prompts, sizes.each[1], bench.machine.cuda, bench.small):
        pairs = [(expected.answers[i], answer) for i, answer in run.answers.items()]
        same = compare(pairs, shape.vocab, exact=not bench.machine.cuda)
        label = f"{shape.name}, {name}"
        if bench.report.gate(f"{label} through HTTP", same.ok, str(same)):
            first = statistics.median(answer.first_s for answer in run.answers.values())
            row(label, first * 1e3, _per_token(run) * 1e3, run.output_tokens / run.seconds)
