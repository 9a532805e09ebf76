"""One step of an engine: schedule, run, commit, report.

Responsible for: the order of these, the time a step took, and that a failing sequence fails alone. Owns the
scheduler and the runner. Leaves to others: when to step and where reports go (`engine.worker`).
"""

from __future__ import annotations

import logging
import time

from engine.batch import Runner
from engine.limits import Limits
from engine.scheduler import BatchScheduler
from engine.types import Abort, Generate, Hint, Ready, Reprioritise, StepReport, TokenDelta, Warm

log = logging.getLogger(__name__)

Request = Generate | Warm | Reprioritise | Hint | Abort


class EngineCore:
    """Synchronous. Requests are taken between steps."""

    def __init__(
        self, runner: Runner, ready: Ready, max_num_batched_tokens: int, disabled: frozenset[str]
    ) -> None:
        self.scheduler = BatchScheduler(
            Limits(
                num_blocks=runner.num_blocks,
                block_size=runner.block_size,
                max_model_len=runner.max_model_len,
                max_num_seqs=ready.max_num_seqs,
                max_num_batched_tokens=max_num_batched_tokens,
                vocab_size=runner.vocab_size,
                disabled=disabled,
            )
        )
        self._runner = runner
        self._kv_bytes_per_token = ready.kv_cache_bytes // (ready.num_blocks * ready.block_size)
        self._last_step_id = 0

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

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
        """Run one step if there is something to run. An exception of the runner ends at most one sequence;
        one of the scheduler is a bug, and goes up."""
        begun = time.perf_counter()
        batch = self.scheduler.schedule(time.monotonic())
        if batch is None:
            return self._report(begun, self.scheduler.take_deltas())
        self._last_step_id = batch.step_id
        try:
            results = self._runner.run(batch)
        except Exception as error:
            log.exception("step %d of %d sequences failed", batch.step_id, len(batch.sequences))
            deltas = self.scheduler.fail(batch.step_id, f"the model failed: {type(error).__name__}: {error}")
        else:
            deltas = self.scheduler.commit(results)
            self.scheduler.observe((time.perf_counter() - begun) * 1e3)
        return self._report(begun, deltas)

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
        )
