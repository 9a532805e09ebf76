"""One step of an engine: schedule, run, commit, report.

Responsible for: the order of these, the time a step took, and that a failing sequence fails alone. Owns the
scheduler, the runner and the steps in flight. Leaves to others: when to step and where reports go
(`engine.worker`).

With a runner that overlaps, `step` n schedules and launches step n and then commits step n - 1, so that the device
never waits for the host: what is decided about step n does not need the tokens of step n - 1.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass

from engine.batch import CHUNK, DeviceLost, Launched, OverlappingRunner, Runner, SampledTokens, ScheduledBatch
from engine.limits import Limits
from engine.scheduler import BatchScheduler
from engine.types import Abort, Generate, Hint, Ready, Reprioritise, StepReport, TokenDelta, Warm

log = logging.getLogger(__name__)

Request = Generate | Warm | Reprioritise | Hint | Abort


@dataclass(frozen=True, slots=True)
class _Computed:
    """A step of a runner that does not overlap."""

    results: SampledTokens

    def result(self) -> SampledTokens:
        return self.results


@dataclass(frozen=True, slots=True)
class _InFlight:
    step_id: int
    launched: Launched
    begun: float
    alone: bool  # it has one sequence


class EngineCore:
    """Synchronous. Requests are taken between steps."""

    def __init__(self, runner: Runner, ready: Ready, disabled: frozenset[str]) -> None:
        self.scheduler = BatchScheduler(
            Limits(
                num_blocks=runner.num_blocks,
                block_size=runner.block_size,
                max_model_len=runner.max_model_len,
                max_num_seqs=ready.max_num_seqs,
                max_num_batched_tokens=ready.max_num_batched_tokens,
                vocab_size=runner.vocab_size,
                disabled=disabled,
                extent=CHUNK // runner.block_size if ready.device == "cpu" else None,
            )
        )
        self._runner = runner
        self._kv_bytes_per_token = ready.kv_cache_bytes // (ready.num_blocks * ready.block_size)
        self._last_step_id = 0
        self._overlapping = runner if isinstance(runner, OverlappingRunner) else None
        self._overlaps = self._overlapping is not None and "overlap" not in disabled
        self._in_flight: deque[_InFlight] = deque()
        self._last_end = 0.0
        self._handover = "handover" not in disabled

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work or bool(self._in_flight)

    @property
    def num_followed(self) -> int:
        """Sequences that ended in the last step, whose successors should be in the next one."""
        return self.scheduler.counts.num_followed if self._handover else 0

    @property
    def handover_s(self) -> float:
        """How long the next step should wait for these; 0: not at all."""
        return self.scheduler.handover_s if self.num_followed else 0.0

    def take(self, request: Request) -> None:
        """Effective from the next step on."""
        match request:
            case Generate() | Warm():
                self.scheduler.add(request, time.monotonic())
            case Abort():
                self.scheduler.abort(request.id)
            case Reprioritise():
                self.scheduler.reprioritise(request.id, request.objective, request.key)
            case Hint():
                self.scheduler.hint(request)

    def step(self) -> StepReport:
        """Run one step if there is something to run. An exception of the runner ends at most one sequence.

        Goes up, and ends the engine: DeviceLost, MemoryError of a step that has one sequence only (no step could
        do with less, so the process has to be another one), and what the scheduler raises, which is a bug."""
        begun = time.perf_counter()
        deltas: list[TokenDelta] = []
        batch = self.scheduler.schedule(time.monotonic())
        if batch is not None:
            self._last_step_id = batch.step_id
            deltas += self._launch(batch, begun)
        # One step beside the one just launched keeps the device busy; when none was launched, all are waited for.
        deltas += self._end_steps(1 if batch is not None and self._overlaps else 0)
        return self._report(begun, deltas + self.scheduler.take_deltas())

    def _launch(self, batch: ScheduledBatch, begun: float) -> list[TokenDelta]:
        """Begin a step; the reports of all in flight when it cannot begin, since steps end in their order."""
        alone = len(batch.sequences) == 1
        try:
            launched = self._begin(batch)
        except DeviceLost:
            raise
        except Exception as error:
            return [*self._end_steps(0), *self._failed(batch.step_id, error, alone)]
        self._in_flight.append(_InFlight(batch.step_id, launched, begun, alone))
        return []

    def _begin(self, batch: ScheduledBatch) -> Launched:
        if self._overlapping is not None:
            return self._overlapping.launch(batch)
        return _Computed(self._runner.run(batch))

    def _end_steps(self, ahead: int) -> list[TokenDelta]:
        """Wait for all steps in flight but so many."""
        deltas: list[TokenDelta] = []
        while len(self._in_flight) > ahead:
            deltas += self._end(self._in_flight.popleft())
        return deltas

    def _end(self, step: _InFlight) -> list[TokenDelta]:
        """Wait for a step, the oldest in flight, and commit it."""
        try:
            results = step.launched.result()
        except DeviceLost:
            raise
        except Exception as error:
            return self._failed(step.step_id, error, step.alone)
        deltas = self.scheduler.commit(results)
        now = time.perf_counter()
        # It had the device for itself from its launch on, or from the end of the step before it.
        self.scheduler.observe((now - max(step.begun, self._last_end)) * 1e3)
        self._last_end = now
        return deltas

    def _failed(self, step_id: int, error: Exception, alone: bool) -> list[TokenDelta]:
        log.error("step %d failed", step_id, exc_info=error)
        if isinstance(error, MemoryError) and alone:
            raise error
        return self.scheduler.fail(step_id, f"the model failed: {type(error).__name__}: {error}")

    def _report(self, begun: float, deltas: list[TokenDelta]) -> StepReport:
        scheduler, counts = self.scheduler, self.scheduler.counts
        return StepReport(
            step_id=self._last_step_id,
            step_ms=(time.perf_counter() - begun) * 1e3,
            deltas=tuple(deltas),
            num_running=scheduler.num_running,
            num_waiting=scheduler.num_waiting,
            free_blocks=scheduler.tables.pool.num_available,
            num_tokens=counts.num_tokens,
            num_preemptions=counts.num_preemptions,
            num_evictions=counts.num_evictions,
            prefix_queries=counts.prefix_queries,
            prefix_hits=counts.prefix_hits,
            shared_kv_bytes=counts.shared_keys * self._kv_bytes_per_token,
            step_times=scheduler.step_times(),
        )
