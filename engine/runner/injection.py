"""A runner that fails when it is told to: `--inject-faults`, to try what a server makes of it.

Responsible for: raising at the places where steps can raise, once for each real-time signal that the engine process
gets (SIGRTMIN plus a `Fault`). Without the flag no handler is installed, and nothing here is imported. Leaves to
others: computing, and whatever follows from an exception.
"""

from __future__ import annotations

import signal
from collections import deque
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import cast

from engine.batch import Launched, OverlappingRunner, Runner, SampledTokens, ScheduledBatch


class Fault(IntEnum):
    """What a signal asks for. Those of a step hit the next one."""

    BEGIN = 0  # it raises before anything is computed
    END = 1  # it raises after all was computed
    SAMPLE = 2  # its first sample is an error
    CURSE = 3  # its first sequence raises in every step, until it is gone
    MEMORY = 4  # it cannot allocate
    STARVE = 5  # nor can any step after it

    @property
    def signal(self) -> int:
        return signal.SIGRTMIN + self


class Injected(RuntimeError):
    """Nothing was wrong."""


@dataclass(frozen=True, slots=True)
class _Name:
    """What a sequence keeps over preemptions: the seed is its own unless its client chose one."""

    prompt_ids: tuple[int, ...]
    seed: int


class FaultyRunner:
    """Owns the faults to come, the name of each slot's sequence, and the cursed one."""

    def __init__(self, runner: Runner) -> None:
        self.block_size = runner.block_size
        self.num_blocks = runner.num_blocks
        self.max_model_len = runner.max_model_len
        self.vocab_size = runner.vocab_size
        self._runner = runner
        self._asked: deque[Fault] = deque()
        self._names: dict[int, _Name] = {}
        self._cursed: _Name | None = None
        self._starved = False

    def listen(self) -> None:
        """Be told by signals from now on; to be called on the main thread."""
        for fault in Fault:
            signal.signal(fault.signal, lambda number, _: self.ask(Fault(number - signal.SIGRTMIN)))

    def ask(self, fault: Fault) -> None:
        self._asked.append(fault)

    def run(self, batch: ScheduledBatch) -> SampledTokens:
        fault = self._begin(batch)
        return _end(fault, self._runner.run(batch))

    def _begin(self, batch: ScheduledBatch) -> Fault | None:
        """What is to happen at the step's end."""
        for install in batch.installs:
            self._names[install.slot] = _Name(install.prompt_ids, install.sampling.seed)
        fault = self._asked.popleft() if self._asked else None
        self._starved = self._starved or fault is Fault.STARVE
        if self._starved or fault is Fault.MEMORY:
            raise MemoryError("injected")
        if fault is Fault.CURSE:
            self._cursed = self._names.get(batch.sequences[0].slot)
        if fault is Fault.BEGIN:
            raise Injected("injected at the begin of a step")
        if self._cursed and any(self._names.get(rows.slot) == self._cursed for rows in batch.sequences):
            raise Injected("injected into a sequence")
        return fault


class FaultyOverlappingRunner(FaultyRunner):
    def launch(self, batch: ScheduledBatch) -> Launched:
        fault = self._begin(batch)
        return _Doomed(fault, cast(OverlappingRunner, self._runner).launch(batch))


@dataclass(frozen=True, slots=True)
class _Doomed:
    fault: Fault | None
    launched: Launched

    def result(self) -> SampledTokens:
        return _end(self.fault, self.launched.result())


def faulty(runner: Runner) -> FaultyRunner:
    """`runner`, and what signals make of it."""
    wrap = FaultyOverlappingRunner if isinstance(runner, OverlappingRunner) else FaultyRunner
    wrapped = wrap(runner)
    wrapped.listen()
    return wrapped


def _end(fault: Fault | None, results: SampledTokens) -> SampledTokens:
    if fault is Fault.END:
        raise Injected("injected at the end of a step")
    if fault is Fault.SAMPLE and results.tokens:
        first, *others = results.tokens
        return replace(results, tokens=(replace(first, error="injected into a sample"), *others))
    return results
