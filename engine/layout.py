"""From the sequences of a step to a ScheduledBatch: their order, their rows, their plan.

Responsible for: bringing sequences with common pages next to each other, advancing `num_scheduled`, and keeping
order, plan and records from one step to the next for as long as they hold: in steady decoding they change only
when a sequence comes, goes or begins a block. Leaves to others: who is in the batch (BatchScheduler), what a
plan is (`engine.plan`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.batch import AttentionPlan, ScheduledBatch, ScheduledSequence, SlotInstall
from engine.plan import Rows, build_plan
from engine.sequence import Sequence
from engine.types import SamplingParams

_NO_SAMPLING = SamplingParams(max_tokens=1, seed=0)
"""In the slot of a Warm, which is never sampled."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a commit needs to know of one sequence of a step in flight."""

    sequence: Sequence
    life: int
    end: int | None  # its committed tokens once the step is done; None: a decode row, one more
    sample: bool


class BatchLayout:
    """Owns the order, plan and records of the last step."""

    def __init__(self, block_size: int, *, share: bool) -> None:
        self._size = block_size
        self._share = share
        self._members: set[Sequence] = set()
        self._order: list[Sequence] = []
        self._plan: AttentionPlan | None = None
        self._records: list[Record] | None = None  # if the last step had decode rows only
        self._had_prefill = False

    def build(
        self, step_id: int, chosen: dict[Sequence, int], moves: Iterable[tuple[int, int, int]] = ()
    ) -> tuple[ScheduledBatch, list[Record]]:
        """`chosen`: how many tokens of each. From here on they are scheduled. moves: copies to make first."""
        has_prefill = any(sequence.prefilling for sequence in chosen)
        if has_prefill or self._had_prefill:
            self._plan = self._records = None
        self._had_prefill = has_prefill
        order = self._arrange(chosen)
        plan = self._plan_of(chosen)
        installs = tuple([_install(sequence) for sequence in order if not sequence.installed])
        tables = {s.slot: tuple(s.blocks) for s in order if s.blocks_changed and s.slot is not None}
        copies = [sequence.copy for sequence in order if sequence.copy is not None] if installs else ()
        rows = tuple([_advance(sequence, chosen[sequence]) for sequence in order])
        for sequence in order if tables else ():  # one that is installed has a new table
            sequence.installed, sequence.blocks_changed = True, False
        batch = ScheduledBatch(step_id, rows, plan, installs, tables or None, (*moves, *copies))
        return batch, self._records_of(order, rows)

    def moved(self) -> None:
        """A sequence left, or changed its blocks for others: the order may be another."""
        self._members = set()

    def grown(self) -> None:
        """A sequence has a block more."""
        self._plan = None

    def _arrange(self, chosen: dict[Sequence, int]) -> list[Sequence]:
        """Sequences whose block tables begin alike become neighbours."""
        if chosen.keys() != self._members:
            self._members = set(chosen)
            self._order = sorted(chosen, key=_blocks)
            self._plan = self._records = None
        return self._order

    def _plan_of(self, chosen: dict[Sequence, int]) -> AttentionPlan:
        if self._plan is None:
            rows = [Rows(s.num_scheduled, chosen[s], s.blocks) for s in self._order]
            self._plan = build_plan(rows, self._size, self._share)
        return self._plan

    def _records_of(self, order: list[Sequence], rows: tuple[ScheduledSequence, ...]) -> list[Record]:
        if self._records is not None:
            return self._records
        records = [
            Record(s, s.life, None if row.token_ids is None else s.num_scheduled, row.sample)
            for s, row in zip(order, rows, strict=True)
        ]
        if not self._had_prefill:
            self._records = records
        return records


def _blocks(sequence: Sequence) -> list[int]:
    return sequence.blocks


def _install(sequence: Sequence) -> SlotInstall:
    assert sequence.slot is not None
    return SlotInstall(
        sequence.slot, sequence.sampling or _NO_SAMPLING, sequence.prompt_ids, sequence.output_ids()
    )


def _advance(sequence: Sequence, length: int) -> ScheduledSequence:
    begin = sequence.num_scheduled
    sequence.num_scheduled = end = begin + length
    assert sequence.slot is not None
    if end > sequence.prefill_end:
        return ScheduledSequence(sequence.slot, begin, length, None, True)
    sample = end == sequence.prefill_end and sequence.sampling is not None
    ids = tuple(sequence.tokens[begin:end])
    if not sequence.scores_prompt:
        return ScheduledSequence(sequence.slot, begin, length, ids, sample)
    assert sequence.sampling is not None
    targets = tuple(sequence.tokens[begin + 1 : end + 1])
    return ScheduledSequence(
        sequence.slot, begin, length, ids, sample, targets, sequence.sampling.prompt_logprobs or 0
    )
