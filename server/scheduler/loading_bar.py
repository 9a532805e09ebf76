"""A progress bar on the terminal while engines load their weights.

Responsible for: one bar for all engines, drawn where stderr is a terminal and nowhere else (a log file gets lines,
and `/health/ready` has the same numbers). Leaves to others: the frames that it shows (EnginePool).
"""

from __future__ import annotations

from typing import TextIO

from tqdm import tqdm

from engine.types import Loading

STAGE = "loading weights"
"""The stage of `Loading` that takes as long as the model is large; every later one means that it is over."""


class _Bar(tqdm):  # type: ignore[type-arg]  # generic only in its stubs
    monitor_interval = 0  # no thread


class LoadingBar:
    """Owns the drawn bar and how far each engine is. Nothing is drawn before the first weights are read."""

    def __init__(self, num_engines: int, stream: TextIO) -> None:
        self._stream = stream
        self._fractions = [0.0] * num_engines
        self._bar: _Bar | None = None
        self._closed = not stream.isatty()

    def show(self, engine_id: int, loading: Loading) -> None:
        """An engine has come further."""
        if self._closed:
            return
        if loading.stage == STAGE:
            self._fractions[engine_id] = loading.fraction
        elif self._bar is not None:
            self._fractions[engine_id] = 1.0
        else:
            return
        if self._bar is None:
            self._bar = _Bar(
                desc=STAGE,
                total=len(self._fractions),
                file=self._stream,
                bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}",
            )
        self._bar.update(sum(self._fractions) - self._bar.n)
        if all(fraction == 1.0 for fraction in self._fractions):
            self.close()

    def close(self) -> None:
        """Leave the line as it is; nothing is drawn any more."""
        self._closed = True
        if self._bar is not None:
            self._bar.close()
            self._bar = None
