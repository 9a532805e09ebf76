"""What loading a runner gives: the runner, and what the server is told about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.batch import Runner
from engine.types import Ready

Progress = Callable[[str, float], None]
"""(stage, fraction in 0..1)."""


class LoadError(Exception):
    """An engine cannot be set up as configured. The message names the number and the flag to change."""


@dataclass(frozen=True, slots=True)
class LoadedRunner:
    """`ready.num_blocks` is the runner's number of blocks without scratch."""

    runner: Runner
    ready: Ready
