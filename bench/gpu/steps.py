"""The time of a decode step at batch and context, in three ways of running it, beside its floor.

Floor: the larger of bytes over bandwidth and operations over rate, as measured in this run. Every sequence has a
prompt of its own, so that nothing is shared and every key is read. Gate: short requests of the same prompts give
the same greedy tokens in every mode.
"""

from __future__ import annotations

import random

from bench.gpu.agreement import compare
from bench.gpu.drive import Answer, drive, prompt, request
from bench.gpu.engines import DEFAULT, EAGER, GRAPHS, OVERLAP, Mode
from bench.gpu.report import AddRow
from bench.gpu.sections import Bench
from bench.gpu.shapes import ModelShape, large_model, small_model

MODES = (OVERLAP, GRAPHS, EAGER)


def run(bench: Bench) -> None:
    batches = (1, 4) if bench.small else (1, 64)
    contexts = (64, 256) if bench.small else (1024, 4096)
    row = bench.report.table(
        "time of a decode step", "model, mode, batch x context", "step ms", "floor ms", "x floor", "tokens/s"
    )
    modes = MODES if bench.machine.cuda else (DEFAULT,)
    for shape in (small_model(bench.small), large_model(bench.small)):
        if not bench.room_for(shape):
            continue
        reference: list[Answer] = []
        for mode in modes:
            if not bench.time_for(f"{shape.name}, {mode.name}", 2.0) or not _gate(
                bench, shape, mode, reference
            ):
                continue
            for context in contexts:
                for batch in batches:
                    label = f"{shape.name}, {mode.name}, {batch} x {context}"
                    if bench.time_for(label, _estimate(bench, shape, batch, context)):
                        _point(bench, shape, mode, batch, context, label, row)


def _gate(bench: Bench, shape: ModelShape, mode: Mode, reference: list[Answer]) -> bool:
    """Eight requests' tokens against those of the first mode. The first mode's are kept in `reference`."""
    rng = random.Random(1)
    requests = [request(i, prompt(rng, shape.vocab, 40 + 20 * i), 16, logprobs=2) for i in range(8)]
    outcome = drive(bench.engines.core(shape, mode), requests)
    if problem := outcome.problem(requests):
        return bench.report.gate(f"{shape.name}, {mode.name}", False, problem)
    answers = [outcome.answers[item.id] for item in requests]
    if not reference:
        reference.extend(answers)
    same = compare(zip(reference, answers, strict=True), shape.vocab, exact=not bench.machine.cuda)
    return bench.report.gate(f"{shape.name}, {mode.name}", same.ok, str(same))


def _point(
    bench: Bench, shape: ModelShape, mode: Mode, batch: int, context: int, label: str, row: AddRow
) -> None:
    seconds = step_seconds(bench, shape, mode, batch, context, label)
    if seconds is None:
        return
    contexts = [context] * batch
    floor = bench.machine.floor(shape.decode_bytes(contexts), shape.decode_operations(contexts))
    row(label, seconds * 1e3, floor * 1e3, seconds / floor, batch / seconds)
    if mode is not OVERLAP and bench.machine.cuda:
        return
    if shape is large_model(bench.small):
        bench.report.at_most(f"8B step over its floor, {batch} x {context}", seconds / floor, 1.25, "x")
    elif batch == 1:
        bench.report.at_most(f"0.6B step, 1 x {context}", seconds * 1e3, 1.5, "ms")


def step_seconds(
    bench: Bench, shape: ModelShape, mode: Mode, batch: int, context: int, label: str
) -> float | None:
    """Of a decode step at about that context; None, and a gate that failed: a request did not get its tokens.

    Prompts are a little shorter than `context`, and the first ones have grown when the last one decodes.
    """
    steps = 8 if bench.small else 40
    rng = random.Random(context)
    output = steps + -(-batch * context // bench.engines.batched_tokens)
    prompts = [prompt(rng, shape.vocab, context - steps) for _ in range(batch)]
    requests = [request(i, ids, output) for i, ids in enumerate(prompts)]
    outcome = drive(bench.engines.core(shape, mode), requests)
    seconds = outcome.median_decode_s()
    problem = outcome.problem(requests) or ("" if seconds else "there were no two steps in which all decode")
    return seconds if bench.report.gate(label, not problem, problem) else None


def _estimate(bench: Bench, shape: ModelShape, batch: int, context: int) -> float:
    """Seconds: prefill at half the measured rate, and 80 steps at twice their floor."""
    contexts = [context] * batch
    prefill = 2 * batch * shape.prefill_operations(context) / bench.machine.rate
    return 1.0 + prefill + 160 * bench.machine.floor(shape.decode_bytes(contexts))
