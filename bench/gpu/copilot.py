"""B6 and B7: a batch of users of one long system prompt, on the 8B shape.

    shared          one pass over the prefix's pages for all rows of a step (grouped prefix attention)
    paged sharing   the prefix is stored once, and every row reads it (what a radix cache alone gives)
    no sharing      every request computes and stores all of its prompt

B6 turns the batch (prompts of 5.1k common and 1.1k own tokens), B7 the prefix (5.1k, 16k) at batch 64, where the
outputs are longer. Outputs are an eighth of the paper's 180-800, because what is compared is time a token: latency
of a request over its output, its own suffix's prefill included; the prefix is in the cache when the batch arrives.
Gates: every request has all its tokens; tokens and logprobs agree between shared and paged.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass

from bench.gpu.agreement import compare
from bench.gpu.attention_case import uniform
from bench.gpu.drive import Outcome, drive, prompt, request
from bench.gpu.engines import DEFAULT, PAGED, UNSHARED, Mode
from bench.gpu.report import AddRow
from bench.gpu.sections import Bench
from bench.gpu.shapes import ModelShape, large_model
from engine.types import Generate

MODES = (DEFAULT, PAGED, UNSHARED)


@dataclass(frozen=True, slots=True)
class Point:
    """`batch` requests of prefix + suffix tokens in; outputs uniform in `outputs`."""

    name: str
    batch: int
    prefix: int
    suffix: int
    outputs: tuple[int, int]

    @property
    def label(self) -> str:
        return f"{self.name}, {self.batch} x ({self.prefix} + {self.suffix})"


FULL = (
    Point("B7", 64, 6144, 64, (64, 128)),
    Point("B7", 64, 16384, 64, (64, 128)),
    Point("B6", 64, 5120, 1088, (22, 100)),
    Point("B6", 8, 5120, 1088, (22, 100)),
    Point("B6", 32, 5120, 1088, (22, 100)),
    Point("B6", 16, 5120, 1088, (22, 100)),
    Point("B7", 32, 6144, 64, (64, 128)),
    Point("B7", 8, 16384, 64, (64, 128)),
)
SMALL = (Point("B6", 4, 512, 32, (4, 10)), Point("B7", 8, 512, 16, (8, 12)))


def run(bench: Bench) -> None:
    shape = large_model(bench.small)
    if not bench.room_for(shape):
        return
    row = bench.report.table(
        "B6, B7 in process",
        "mode, batch x (prefix + suffix)",
        "ms/token",
        "step ms",
        "x floor",
        "GB unread",
        "gain",
    )
    for point in SMALL if bench.small else FULL:
        if bench.time_for(point.label, 4.0):
            _point(bench, shape, point, row)


def _point(bench: Bench, shape: ModelShape, point: Point, row: AddRow) -> None:
    """One line a mode; `gain` is the shared mode's over it, in time a token."""
    outcomes: dict[str, Outcome] = {}
    for mode in MODES:
        label = f"{point.label}, {mode.name}"
        if not _fits(bench, shape, point, mode):
            bench.report.note(f"{label}: its KV does not fit")
        elif mode is not UNSHARED or bench.time_for(label, _unshared_s(bench, shape, point)):
            outcomes[mode.name] = _serve(bench, shape, point, mode)
    if not _gate(bench, shape, point, outcomes):
        return
    best = _per_token(outcomes[DEFAULT.name])
    for name, outcome in outcomes.items():
        step, each = outcome.median_decode_s(), _per_token(outcome)
        unread = outcome.shared_kv_bytes / 1e9
        floor = _floor(bench, shape, point, shared=name != UNSHARED.name)
        times = (None, None) if step is None else (step * 1e3, step / floor)
        row(f"{name}, {point.label}", each * 1e3, *times, unread, each / best)


def _gate(bench: Bench, shape: ModelShape, point: Point, outcomes: dict[str, Outcome]) -> bool:
    requests = _requests(shape, point)
    for name, outcome in outcomes.items():
        if problem := outcome.problem(requests):
            return bench.report.gate(f"{point.label}, {name}", False, problem)
    if DEFAULT.name not in outcomes:
        return False
    some = requests[:: max(1, len(requests) // 16)]
    reference = _with_logprobs(bench, shape, point, some, PAGED)
    others = (_with_logprobs(bench, shape, point, some, DEFAULT), outcomes[DEFAULT.name])
    pairs = [(reference.answers[item.id], other.answers[item.id]) for other in others for item in some]
    same = compare(pairs, shape.vocab, exact=not bench.machine.cuda)
    return bench.report.gate(point.label, same.ok, str(same))


def _with_logprobs(
    bench: Bench, shape: ModelShape, point: Point, requests: list[Generate], mode: Mode
) -> Outcome:
    """Some of the requests, not timed."""
    core = bench.engines.core(shape, mode)
    drive(core, [request(0, requests[0].token_ids[: point.prefix], 1)])
    return drive(core, [request(item.id, item.token_ids, item.sampling.max_tokens, 2) for item in requests])


def _serve(bench: Bench, shape: ModelShape, point: Point, mode: Mode) -> Outcome:
    """The batch after the prefix, and after a batch of other suffixes that warms up."""
    core = bench.engines.core(shape, mode)
    if mode is not UNSHARED:
        common = _requests(shape, point)[0].token_ids[: point.prefix]
        drive(core, [request(0, common, 1)])
        drive(core, [request(i, (*common, i), 3) for i in range(point.batch)])
    return drive(core, _requests(shape, point))


def _requests(shape: ModelShape, point: Point) -> list[Generate]:
    rng = random.Random(point.prefix)
    common = prompt(rng, shape.vocab, point.prefix)
    outputs = uniform(point.batch, point.batch, *point.outputs)
    return [
        request(i, common + prompt(rng, shape.vocab, point.suffix), output)
        for i, output in enumerate(outputs)
    ]


def _fits(bench: Bench, shape: ModelShape, point: Point, mode: Mode) -> bool:
    limits = bench.engines.core(shape, mode).scheduler.limits
    own = point.suffix + point.outputs[1] + 2 * limits.block_size
    needed = point.batch * (own + point.prefix) if mode is UNSHARED else point.prefix + point.batch * own
    return needed <= (limits.num_blocks - 1) * limits.block_size and point.batch <= limits.max_num_seqs


def _unshared_s(bench: Bench, shape: ModelShape, point: Point) -> float:
    """About how long the mode without sharing takes: mostly prefill, at half the measured rate."""
    return 2 * point.batch * shape.prefill_operations(point.prefix + point.suffix) / bench.machine.rate


def _floor(bench: Bench, shape: ModelShape, point: Point, shared: bool) -> float:
    """Of a step in the middle of the outputs; a shared prefix is read once."""
    own = point.suffix + sum(point.outputs) // 4
    contexts = [own + point.prefix] * point.batch
    unread = point.prefix * (point.batch - 1) * shape.kv_bytes if shared else 0
    return bench.machine.floor(shape.decode_bytes(contexts) - unread, shape.decode_operations(contexts))


def _per_token(outcome: Outcome) -> float:
    return statistics.fmean(answer.last_s / len(answer.tokens) for answer in outcome.answers.values())
