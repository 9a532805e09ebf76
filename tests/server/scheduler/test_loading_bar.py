"""One bar for all engines, on terminals only."""

from __future__ import annotations

import io

from engine.types import Loading
from server.scheduler.loading_bar import STAGE, LoadingBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_is_the_mean_of_all_engines_and_ends_with_the_last() -> None:
    terminal = Terminal()
    bar = LoadingBar(2, terminal)
    bar.show(0, Loading(STAGE, 1.0))
    bar.show(1, Loading(STAGE, 0.0))
    assert "100%" not in terminal.getvalue()
    bar.show(1, Loading("checking the CPU's arithmetic", 0.0))  # not every tensor of a file is wanted
    assert "100%" in terminal.getvalue()
    drawn = terminal.getvalue()
    bar.show(0, Loading(STAGE, 0.5))
    assert terminal.getvalue() == drawn


def test_nothing_is_drawn_without_a_terminal_or_without_weights() -> None:
    file, terminal = io.StringIO(), Terminal()
    LoadingBar(1, file).show(0, Loading(STAGE, 0.5))
    bar = LoadingBar(1, terminal)
    bar.show(0, Loading("simulated engine", 1.0))
    bar.close()
    assert file.getvalue() == terminal.getvalue() == ""


def test_a_closed_bar_leaves_its_line() -> None:
    terminal = Terminal()
    bar = LoadingBar(1, terminal)
    bar.show(0, Loading(STAGE, 0.5))
    bar.close()
    assert terminal.getvalue().endswith("\n")
