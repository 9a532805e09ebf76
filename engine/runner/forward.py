"""What turns a step's rows into logits: the one thing that a `ModelRunner` leaves to somebody else.

An implementation owns the weights and its working memory, and reads and writes the KV pool that it was made with.
Invariant (the contract): a position's logits depend on its own sequence's ids alone. Left to the runner: block
tables, copies between blocks, sampling.
"""

from __future__ import annotations

from typing import Protocol

import torch

from engine.batch import AttentionPlan
from engine.runner.batch import StepInputs


class Forward(Protocol):
    """A model that computes steps on the CPU."""

    def padded(self, rows: int) -> int:
        """How many rows `rows` >= 1 rows are computed as: the length of the padded arrays of `StepInputs`."""
        ...

    def use_threads(self, threads: int) -> None:
        """Compute with so many threads from now on, which changes no result."""
        ...

    def compute(self, inputs: StepInputs, plan: AttentionPlan) -> torch.Tensor:
        """Write keys and values of all rows; logits [rows, vocab], one row or more for each of
        `inputs.logit_rows` in their order (of all rows when None). They hold until the next call.
        """
        ...
