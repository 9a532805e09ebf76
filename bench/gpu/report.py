"""What a section of the kit says while it runs: tables, gates, targets and notes, one message at a time.

Responsible for: the shapes of these messages and the object that a section writes them through. A message is
complete when it is sent, so a run that is cut off keeps what it had. Leaves to others: text and files (`results`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import msgspec

Value = float | int | str | None
"""A cell; None is printed as "-"."""

AddRow = Callable[..., None]
"""Adds a line to a table: a value for each column."""

Status = Literal["ok", "failed", "skipped", "cut"]


class Began(msgspec.Struct, frozen=True, tag=True):
    """A section starts."""

    section: str
    text: str
    budget_s: float


class Ended(msgspec.Struct, frozen=True, tag=True):
    """A section is over; `detail` says why it failed or was skipped."""

    section: str
    status: Status
    seconds: float
    detail: str = ""


class Constants(msgspec.Struct, frozen=True, tag=True):
    """The machine, and its ceilings as measured in this run."""

    device: str
    dtype: str
    bandwidth_gb_s: float
    rate_tflop_s: float
    torch: str
    triton: str


class Header(msgspec.Struct, frozen=True, tag=True):
    """A table begins."""

    table: str
    columns: tuple[str, ...]


class Row(msgspec.Struct, frozen=True, tag=True):
    """One line of a table; values in the order of its columns."""

    table: str
    values: tuple[Value, ...]


class Gate(msgspec.Struct, frozen=True, tag=True):
    """A correctness check. What it guards is reported only when it holds."""

    name: str
    ok: bool
    detail: str = ""


class Target(msgspec.Struct, frozen=True, tag=True):
    """A figure beside what was asked of it. Judged on a GPU only: `judged` false prints it without a verdict."""

    name: str
    value: float
    bound: float
    at_least: bool
    unit: str = ""
    judged: bool = True

    @property
    def ok(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


class Note(msgspec.Struct, frozen=True, tag=True):
    """A line for the reader."""

    text: str


Message = Began | Ended | Constants | Header | Row | Gate | Target | Note


class Report:
    """A section's way out. Remembers the gates that failed, so that the section's end can say so."""

    def __init__(self, send: Callable[[Message], None], judged: bool) -> None:
        self._send = send
        self._judged = judged
        self.failed: list[str] = []

    def send(self, message: Message) -> None:
        self._send(message)

    def table(self, name: str, *columns: str) -> AddRow:
        """Begin a table; the first column is a label."""
        self._send(Header(name, columns))

        def row(*values: Value) -> None:
            if len(values) != len(columns):
                raise ValueError(f"{name}: {len(values)} values for {len(columns)} columns")
            self._send(Row(name, values))

        return row

    def gate(self, name: str, ok: bool, detail: str = "") -> bool:
        """Report a check, and say whether it held."""
        if not ok:
            self.failed.append(name)
        self._send(Gate(name, ok, detail))
        return ok

    def at_least(self, name: str, value: float, bound: float, unit: str = "") -> None:
        self._target(Target(name, value, bound, True, unit, self._judged))

    def at_most(self, name: str, value: float, bound: float, unit: str = "") -> None:
        self._target(Target(name, value, bound, False, unit, self._judged))

    def note(self, text: str) -> None:
        self._send(Note(text))

    def _target(self, target: Target) -> None:
        if math.isfinite(target.value):
            self._send(target)
        else:
            self.gate(target.name, False, f"{target.value} is no figure")
