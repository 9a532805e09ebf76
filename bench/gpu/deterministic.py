"""Deterministic mode: the same logits to the bit in any batch, and what a step of it costs.

The same sequences are computed alone, all together, in chunks, over one copy of their common prefix, and with
grouped attention off; `torch.equal` on the logits of every sequence's last prompt token and of the decode steps
after it. Fast mode is held to its own contract on the same batches: it may differ, but choose another token only at
a tie.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch

from bench.gpu.agreement import TIE
from bench.gpu.drive import Ids, prompt
from bench.gpu.engines import DEFAULT, DETERMINISTIC, Mode
from bench.gpu.report import AddRow
from bench.gpu.sections import Bench
from bench.gpu.shapes import ModelShape, large_model, small_model
from bench.gpu.steps import step_seconds
from engine.batch import ScheduledBatch, ScheduledSequence, SlotInstall
from engine.plan import Rows, build_plan
from engine.types import SamplingParams

DECODES = 3
Logits = torch.Tensor
"""[sequences, 1 + DECODES, vocab]."""


class Forward(Protocol):
    """What both runners have beside `engine.batch.Runner`: a step without sampling."""

    block_size: int
    num_blocks: int

    def forward(self, batch: ScheduledBatch) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class Composition:
    """How sequences are put into steps. chunk: prompt tokens a step. beside: so many sequences in a step.
    one_prefix: the common prefix has one copy. share: grouped attention over it."""

    name: str
    beside: int
    chunk: int
    one_prefix: bool = False
    share: bool = True


def run(bench: Bench) -> None:
    shape = small_model(bench.small)
    row = bench.report.table(
        "logits in other batches", "mode, composition", "equal", "of", "max diff", "ties"
    )
    for mode in (DETERMINISTIC, DEFAULT):
        if bench.time_for(mode.name, 2.0):
            _compare(bench, shape, mode, row)
    row = bench.report.table(
        "cost of deterministic mode", "model, batch x context", "fast ms", "det. ms", "x"
    )
    for shape in filter(bench.room_for, (small_model(bench.small), large_model(bench.small))):
        if bench.time_for(shape.name, 5.0):
            _cost(bench, shape, row)


def _cost(bench: Bench, shape: ModelShape, row: AddRow) -> None:
    """A mode at a time, because each has a runner of its own."""
    batches, context = ((1, 4), 64) if bench.small else ((1, 64), 1024)
    fast, exact = (
        [
            step_seconds(
                bench, shape, mode, batch, context, f"{shape.name}, {mode.name}, {batch} x {context}"
            )
            for batch in batches
        ]
        for mode in (DEFAULT, DETERMINISTIC)
    )
    for batch, before, after in zip(batches, fast, exact, strict=True):
        if before is not None and after is not None:
            row(f"{shape.name}, {batch} x {context}", before * 1e3, after * 1e3, after / before)


def _compare(bench: Bench, shape: ModelShape, mode: Mode, row: AddRow) -> None:
    """The first composition is what the others are held against."""
    runner = cast(Forward, bench.engines.runner(shape, mode).runner)
    sequences = _sequences(shape, bench.small)
    every, prefix = len(sequences), _prefix(bench.small)
    compositions = (
        Composition("alone", 1, 1 << 20),
        Composition("together", every, 1 << 20),
        Composition("together, chunks of 100", every, 100),
        Composition("together, one prefix", every, 1 << 20, one_prefix=True),
        Composition("together, one prefix, paged", every, 1 << 20, one_prefix=True, share=False),
        Composition("in threes, one prefix, chunks of 64", 3, 64, one_prefix=True),
    )
    exact = mode.deterministic or not bench.machine.cuda
    reference: Logits | None = None
    for composition in compositions:
        found = _Batches(runner, sequences, prefix, composition).logits()
        reference = found if reference is None else reference
        same = sum(
            torch.equal(a, b) for a, b in zip(found.flatten(0, 1), reference.flatten(0, 1), strict=True)
        )
        count = found.shape[0] * found.shape[1]
        apart, ties = _parted(reference, found)
        largest = float((found - reference).abs().max())
        label = f"{mode.name}, {composition.name}"
        ok = same == count if exact else apart == ties
        detail = f"{same} of {count} rows equal; {apart} choose another token, {ties} of them at a tie"
        if bench.report.gate(label, ok and bool(found.isfinite().all()), detail):
            row(label, same, count, largest, ties)


def _parted(reference: Logits, found: Logits) -> tuple[int, int]:
    """(rows that choose another token, those among them that were a tie by the contract)."""
    other = reference.argmax(-1) != found.argmax(-1)
    top = reference.topk(2, -1).values
    gap = top[..., 0] - top[..., 1]
    scale = top[..., 0] - (torch.logsumexp(reference, -1) - torch.tensor(float(reference.shape[-1])).log())
    return int(other.sum()), int((other & (gap < TIE * scale)).sum())


def _prefix(small: bool) -> int:
    return 256 if small else 512


def _sequences(shape: ModelShape, small: bool) -> list[Ids]:
    """Prompts of random lengths with the forced tokens after them; they begin alike, and all fit one step."""
    rng = random.Random(11)
    common = prompt(rng, shape.vocab, _prefix(small))
    count, longest = (4, 60) if small else (12, 150)
    return [common + prompt(rng, shape.vocab, rng.randint(2, longest) + DECODES) for _ in range(count)]


class _Batches:
    """One composition's steps on a runner. Blocks and slots are given out here; nothing else uses the runner."""

    def __init__(self, runner: Forward, sequences: Sequence[Ids], prefix: int, how: Composition) -> None:
        self._runner, self._sequences, self._how = runner, sequences, how
        size = runner.block_size
        free = list(range(runner.num_blocks - 1, 0, -1))
        random.Random(how.name).shuffle(free)
        common = [free.pop() for _ in range(prefix // size)] if how.one_prefix else []
        self._blocks = [
            common + [free.pop() for _ in range(-(-len(ids) // size) - len(common))] for ids in sequences
        ]
        self._computed = [0] * len(sequences)
        self._prefix = prefix if how.one_prefix else 0
        self._installed: set[int] = set()
        self._step = 0

    def logits(self) -> Logits:
        """Of every sequence: after its prompt, and after each of DECODES tokens more."""
        rows: list[list[torch.Tensor]] = [[] for _ in self._sequences]
        for begin in range(0, len(self._sequences), self._how.beside):
            members = list(range(begin, min(begin + self._how.beside, len(self._sequences))))
            for decode in range(1 + DECODES):
                for index, logits in self._advance(members, decode):
                    rows[index].append(logits)
        return torch.stack([torch.stack(each) for each in rows])

    def _advance(self, members: Sequence[int], decode: int) -> list[tuple[int, torch.Tensor]]:
        """Steps until these sequences stand at prompt + decode tokens; the logits there."""
        goals = {index: len(self._sequences[index]) - DECODES + decode for index in members}
        found: dict[int, torch.Tensor] = {}
        while ahead := [index for index in members if self._computed[index] < goals[index]]:
            if self._prefix and self._computed[0] < self._prefix:
                ahead = [0]  # the first one computes what all have in common
            elif self._prefix:
                for index in ahead:
                    self._computed[index] = max(self._computed[index], self._prefix)
            logits = self._run(ahead, goals)
            found.update({index: row for index, row in logits if self._computed[index] == goals[index]})
        return list(found.items())

    def _run(self, indexes: Sequence[int], goals: dict[int, int]) -> list[tuple[int, torch.Tensor]]:
        """One step. A batch's order is that of its blocks, so that those who share are neighbours."""
        order = sorted(indexes, key=lambda index: self._blocks[index])
        scheduled, rows = [], []
        for index in order:
            start = self._computed[index]
            limit = self._prefix if self._prefix and start < self._prefix else goals[index]
            length = min(self._how.chunk, limit - start)
            ids = self._sequences[index][start : start + length]
            scheduled.append(ScheduledSequence(index, start, length, ids, sample=True))
            rows.append(Rows(start, length, self._blocks[index]))
            self._computed[index] += length
        self._step += 1
        batch = ScheduledBatch(
            step_id=self._step,
            sequences=tuple(scheduled),
            plan=build_plan(rows, self._runner.block_size, self._how.share),
            installs=tuple(
                SlotInstall(index, SamplingParams(1, 0, temperature=0.0), self._sequences[index])
                for index in order
                if index not in self._installed
            ),
            block_tables={index: tuple(self._blocks[index]) for index in order},
        )
        self._installed.update(order)
        logits = self._runner.forward(batch).float()
        return [(index, logits[row].clone()) for row, index in enumerate(order)]
