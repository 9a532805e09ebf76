"""256 sequences at once, prompts and outputs uniform in 100-1024: tokens a second, and the same on transformers.

Ours runs on an engine in this process; transformers' continuous batching in a process of its own (`peer`), on the
same ids and the same forced lengths, with random weights of the same shape. Gates: every request has all its
tokens; eight of ours agree with the request computed alone. Beside the figure stands the roofline (`roofline`).
"""

from __future__ import annotations

import random
import subprocess
import sys
import time

import msgspec

from bench.gpu.agreement import compare
from bench.gpu.drive import drive, prompt, request
from bench.gpu.peer import Work, Worked
from bench.gpu.report import AddRow
from bench.gpu.results import ROOT
from bench.gpu.roofline import roofline
from bench.gpu.sections import Bench
from bench.gpu.shapes import ModelShape, folder, small_model
from engine.types import Generate

SEED = 0
CHECKED = 8
"""Requests whose tokens and logprobs are compared with those of the request computed alone."""


def lengths(small: bool) -> list[tuple[int, int]]:
    """(prompt, output) of each request."""
    rng = random.Random(SEED)
    count, low, high = (8, 4, 16) if small else (256, 100, 1024)
    return [(rng.randint(low, high), rng.randint(low, high)) for _ in range(count)]


def run(bench: Bench) -> None:
    shape, sizes = small_model(bench.small), lengths(bench.small)
    rng = random.Random(SEED)
    requests = [
        request(i, prompt(rng, shape.vocab, length), output) for i, (length, output) in enumerate(sizes)
    ]
    best = roofline(bench.machine, shape, sizes)
    row = bench.report.table("256 sequences at once", "who", "seconds", "out tok/s", "all tok/s", "share")
    row("roofline", best.prefill_s + best.decode_s, best.tokens_per_s, None, 1.0)
    ours = _ours(bench, shape, requests)
    if ours is not None:
        _row(row, f"ours, {shape.name}", sizes, ours, best.tokens_per_s)
        share = best.tokens / ours / best.tokens_per_s
        bench.report.at_least("256 sequences, share of the roofline", share, 0.5)
    bench.engines.close()  # the peer takes what memory is free
    theirs = _theirs(bench, shape, requests)
    if theirs is None:
        return
    name = f"transformers {theirs.version}, {theirs.attention}"
    if theirs.done:
        _row(row, name, sizes, theirs.seconds, best.tokens_per_s)
    else:
        bench.report.note(f"{name} was given up after {theirs.seconds:.1f} s: a lower bound")
    if ours is not None:
        bench.report.at_least("256 sequences, over transformers", theirs.seconds / ours, 3.0, "x")


def _row(row: AddRow, who: str, sizes: list[tuple[int, int]], seconds: float, best: float) -> None:
    tokens_in, tokens_out = (sum(column) for column in zip(*sizes, strict=True))
    rate = tokens_out / seconds
    row(who, seconds, rate, (tokens_in + tokens_out) / seconds, rate / best)


def _ours(bench: Bench, shape: ModelShape, requests: list[Generate]) -> float | None:
    """Seconds for all of them; None: a gate failed. A first run, an eighth as long, warms up and is checked."""
    checked = {item.id for item in requests[:: max(1, len(requests) // CHECKED)]}
    short = [
        request(item.id, item.token_ids, 16, logprobs=2)
        if item.id in checked
        else request(item.id, item.token_ids, max(2, item.sampling.max_tokens // 8))
        for item in requests
    ]
    together = drive(bench.engines.core(shape), short)
    alone = [(drive(bench.engines.core(shape), [item]), item.id) for item in short if item.id in checked]
    pairs = [(outcome.answers[id], together.answers[id]) for outcome, id in alone]
    same = compare(pairs, shape.vocab, exact=not bench.machine.cuda)
    outcome = drive(bench.engines.core(shape), requests)
    problem = outcome.problem(requests)
    right = bench.report.gate("as if alone", same.ok, str(same))
    return outcome.seconds if bench.report.gate("all tokens", not problem, problem) and right else None


def _theirs(bench: Bench, shape: ModelShape, requests: list[Generate]) -> Worked | None:
    """The peer's figures; None, and a note, when it cannot run here or is not done in time."""
    left = bench.deadline - time.monotonic()
    if not bench.time_for("transformers", 5.0):
        return None
    work = Work(
        model=str(folder(shape)),
        device=bench.machine.device.type,
        prompts=[list(item.token_ids) for item in requests],
        outputs=[item.sampling.max_tokens for item in requests],
        limit_s=left - 8.0,
    )
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bench.gpu.peer"],
            cwd=ROOT,
            input=msgspec.json.encode(work),
            capture_output=True,
            timeout=left,
            check=False,
        )
    except subprocess.TimeoutExpired:
        bench.report.note(f"transformers did not end in the {left:.0f} s left")
        return None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        bench.report.note(f"transformers could not run: {reason[0] if reason else done.returncode}"[:300])
        return None
    worked = msgspec.json.decode(done.stdout.splitlines()[-1], type=Worked)
    wrong = [count for count, output in zip(worked.counts, work.outputs, strict=False) if count != output]
    ok = not worked.done or bench.report.gate(
        "transformers has all tokens", not wrong, f"{len(wrong)} have not"
    )
    return worked if ok else None
