"""Step times over what this machine allows, by part of the step, of an engine in this process.

For each model, number of sequences and context: decode steps until their minimum is steady, and the prefill of
prompts of the longest context in the engine's own chunks. Rates are measured in the same run
(`bench.workloads.roofline_floor`). The gate: the tokens of every sequence are, position by position, the likeliest
ones of transformers' own model in fp32 (where its two best are not within rounding of each other), and those of a
sequence alone are the same as of one among others. Minima, since a shared machine adds time and never takes any.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from transformers import AutoModelForCausalLM

from bench.checkpoint import SHAPES, checkpoint
from bench.stats import write_json
from bench.workloads.roofline_floor import Machine, Work, work_of_step
from bench.workloads.roofline_parts import PARTS, Parts, watched
from engine.config import EngineConfig
from engine.core import EngineCore
from engine.models.config import ModelConfig, load_config
from engine.runner.cpu_loader import load_runner
from engine.runner.model_runner import ModelRunner
from engine.types import Abort, Generate, SamplingParams, StepReport

CHECKED = 2
"""Sequences of each point that the reference checks: it computes them whole."""


@dataclass(slots=True)
class Point:
    """Milliseconds of a step or prompt; parts: of watched ones, the faster half's mean or the fastest prompt's."""

    model: str
    kind: str
    sequences: int
    context: int
    samples_ms: list[float]
    floor_ms: float
    parts_ms: dict[str, float] = field(default_factory=dict)
    part_floors_ms: dict[str, float] = field(default_factory=dict)

    @property
    def best_ms(self) -> float:
        return min(self.samples_ms)

    @property
    def over_floor(self) -> float:
        return self.best_ms / self.floor_ms


@dataclass(slots=True)
class Generated:
    prompt: tuple[int, ...]
    tokens: list[int] = field(default_factory=list)


class Subject:
    """One model in an engine of its own. Owns its running sequences."""

    def __init__(self, model: str, args: argparse.Namespace) -> None:
        self.model, self.folder = model, checkpoint(SHAPES[model])
        self.config: ModelConfig = load_config(self.folder)
        longest = max(args.contexts) + args.steps * 3 * len(args.sequences) + 256
        kv_token = 2 * self.config.num_layers * self.config.num_kv_heads * self.config.head_dim * 4
        engine = EngineConfig(
            model=str(self.folder),
            dtype=args.dtype,
            num_threads=args.threads,
            kv_cache_memory=kv_token * longest * (max(args.sequences) + 1),
            max_num_seqs=max(args.sequences),
        )
        loaded = load_runner(engine, lambda stage, fraction: None)
        assert isinstance(loaded.runner, ModelRunner)
        self.runner, self.ready = loaded.runner, loaded.ready
        self.core = EngineCore(self.runner, self.ready, frozenset())
        self.dtype = getattr(torch, self.ready.dtype)
        self.weight_bytes: int = getattr(self.runner._forward, "weight_bytes", self.dtype.itemsize)
        self.machine = Machine(self.dtype, self.ready.num_threads)
        self.running: dict[int, Generated] = {}
        self._ids = itertools.count(1)
        self.reference = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        self.tolerance = 1e-4 if self.dtype == torch.float32 else 2**-5

    def describe(self) -> str:
        machine = self.machine
        reads = ", ".join(
            f"{rate / 1e9:.1f} GB/s of {size >> 20} MiB" for size, rate in sorted(machine.bandwidths.items())
        )
        return (
            f"{self.model}: {self.ready.dtype}, weights of {self.weight_bytes} bytes, {machine.threads} threads; "
            f"{machine.flops / 1e9:.0f} GFLOP/s, {reads}"
        )

    def add(self, prompt: tuple[int, ...]) -> int:
        id = next(self._ids)
        self.running[id] = Generated(prompt)
        self.core.take(Generate(id, prompt, SamplingParams(10_000, 0, temperature=0.0, ignore_eos=True)))
        return id

    def step(self) -> StepReport:
        report = self.core.step()
        for delta in report.deltas:
            if delta.error is not None:
                raise RuntimeError(f"sequence {delta.id}: {delta.error}")
            self.running[delta.id].tokens.extend(delta.token_ids)
        return report

    def end(self) -> list[Generated]:
        """Abort what runs; what it has generated."""
        for id in self.running:
            self.core.take(Abort(id))
        self.core.step()
        done, self.running = list(self.running.values()), {}
        return done

    def floors(self, rows: int, keys: int, kv_tokens: int, logits: int) -> tuple[float, dict[str, float]]:
        """(of the step, of each part), milliseconds."""
        config = self.config
        kv_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * self.dtype.itemsize
        work = work_of_step(config, rows, keys, logits, self.weight_bytes, kv_token * kv_tokens)
        whole = sum(work.values(), Work())
        parts = {name: self.machine.floor_ms(part, whole.bytes) for name, part in work.items()}
        return self.machine.floor_ms(whole, whole.bytes), parts


def measure(subject: Subject, context: int, args: argparse.Namespace) -> list[Point]:
    """Decode points of one context, more and more sequences, then checked against the reference."""
    rng = random.Random(context)
    vocabulary = subject.config.vocab_size
    points: list[Point] = []
    for count in sorted(args.sequences):
        while len(subject.running) < count:
            subject.add(tuple(rng.randrange(300, vocabulary) for _ in range(context)))
        while not (report := subject.step()).num_tokens == report.num_running == count:
            pass
        points.append(_decode_point(subject, count, context, args))
        print(_line(points[-1]), flush=True)
    done = subject.end()
    check(subject, done)
    return points


def _decode_point(subject: Subject, count: int, context: int, args: argparse.Namespace) -> Point:
    samples = [_timed_step(subject) for _ in range(args.steps)]
    length = sum(len(each.prompt) + len(each.tokens) for each in subject.running.values())
    floor, floors = subject.floors(count, length, length, count)
    with watched(subject.core, subject.runner) as parts:
        profile = _profile(subject, parts, args.steps)
    return Point(subject.model, "decode", count, context, samples, floor, profile, floors)


def _timed_step(subject: Subject) -> float:
    begin = time.perf_counter()
    subject.step()
    return (time.perf_counter() - begin) * 1e3


def _profile(subject: Subject, parts: Parts, steps: int) -> dict[str, float]:
    """Milliseconds of each part in the faster half of the steps, and of what is in none."""
    taken: list[tuple[float, dict[str, float]]] = []
    for _ in range(steps):
        parts.clear()
        begin = time.perf_counter()
        subject.step()
        taken.append((time.perf_counter() - begin, parts.seconds))
    taken.sort(key=lambda each: each[0])
    kept = taken[: max(1, steps // 2)]
    result = {name: statistics.fmean(parts[name] for _, parts in kept) * 1e3 for name in PARTS}
    result["rest"] = statistics.fmean(total for total, _ in kept) * 1e3 - sum(result.values())
    return result


def measure_prefill(subject: Subject, length: int, args: argparse.Namespace) -> Point:
    """Prompts one after another, each a new one; milliseconds are those of a prompt, all its steps together."""
    rng = random.Random(f"prefill {length}")
    samples: list[float] = []
    spent = dict.fromkeys(PARTS, 0.0)
    floor, floors = 0.0, dict[str, float]()
    for _ in range(args.prefills):
        subject.add(tuple(rng.randrange(300, subject.config.vocab_size) for _ in range(length)))
        chunks: list[int] = []
        with watched(subject.core, subject.runner) as parts:
            begin = time.perf_counter()
            while not any(each.tokens for each in subject.running.values()):
                chunks.append(subject.step().num_tokens)
            samples.append((time.perf_counter() - begin) * 1e3)
        if sum(chunks) != length:
            raise RuntimeError(f"{sum(chunks)} of {length} tokens were computed: the prompt is not new")
        if samples[-1] == min(samples):
            spent = {name: seconds * 1e3 for name, seconds in parts.seconds.items()}
        check(subject, subject.end())
    for end, rows in zip(itertools.accumulate(chunks), chunks, strict=True):
        keys = sum(range(end - rows + 1, end + 1))
        step, of_parts = subject.floors(rows, keys, end, int(end == length))
        floor += step
        floors = {name: floors.get(name, 0.0) + value for name, value in of_parts.items()}
    spent["rest"] = min(samples) - sum(spent.values())
    return Point(subject.model, "prefill", 1, length, samples, floor, spent, floors)


def check(subject: Subject, generated: Sequence[Generated]) -> None:
    """Raises RuntimeError where the reference would have gone on otherwise, or a sequence alone does."""
    reference = subject.reference
    for each in generated[:CHECKED]:
        ids = torch.tensor([[*each.prompt, *each.tokens[:-1]]])
        with torch.inference_mode():
            logits = reference(ids).logits[0, len(each.prompt) - 1 :].float()
        best = logits.topk(2).values
        chosen = logits.gather(1, torch.tensor(each.tokens)[:, None])[:, 0]
        behind = (best[:, 0] - chosen) / best[:, 0].abs().clamp_min(1e-6)
        if behind.max() > subject.tolerance:
            raise RuntimeError(f"{subject.model}: a token is not the likeliest one, by {behind.max():.2g}")
    alone = generated[-1]
    subject.add(alone.prompt)
    while len(next(iter(subject.running.values())).tokens) < len(alone.tokens):
        subject.step()
    if subject.end()[0].tokens[: len(alone.tokens)] != alone.tokens:
        raise RuntimeError(f"{subject.model}: a sequence alone has other tokens than among {len(generated)}")


def _line(point: Point) -> str:
    heads = "ms a step" if point.kind == "decode" else "ms a prompt"
    return (
        f"{point.model:6} {point.kind:8} {point.sequences:3} x {point.context:5}: {point.best_ms:8.2f} "
        f"(median {statistics.median(point.samples_ms):.2f}) {heads}, floor {point.floor_ms:.2f}, "
        f"{point.over_floor:.2f}x"
    )


def _table(points: Sequence[Point]) -> str:
    """Milliseconds of each part, and in brackets its own floor."""
    names = [*PARTS, "rest"]
    rows = [("", *(f"{each.kind[:3]} {each.sequences}x{each.context}" for each in points))]
    for name in names:
        cells = []
        for each in points:
            floor = each.part_floors_ms.get(name)
            cells.append(f"{each.parts_ms[name]:.2f}" + (f" ({floor:.2f})" if floor else ""))
        rows.append((name, *cells))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench roofline", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["tiny", "small"])
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--steps", type=int, default=40, help="timed steps of each point")
    parser.add_argument("--prefills", type=int, default=4, help="prompts of the longest context")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--threads", type=int, help="(chosen at start, as a server does)")
    args = parser.parse_args(argv)
    results: dict[str, list[Point]] = {}
    for model in args.models:
        subject = Subject(model, args)
        points = [point for context in args.contexts for point in measure(subject, context, args)]
        points.append(measure_prefill(subject, max(args.contexts), args))
        print(_line(points[-1]))
        print(f"{subject.describe()}\n{_table(points)}", flush=True)
        results[model] = points
    path = write_json(
        "roofline", {name: [asdict(each) for each in points] for name, points in results.items()}
    )
    for points in results.values():
        ratios = " ".join(f"{p.kind}-{p.sequences}x{p.context}={p.over_floor:.2f}" for p in points)
        print(f"roofline {points[0].model} {ratios} ok {path}")
    return 0
