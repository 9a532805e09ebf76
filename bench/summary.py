"""One table of everything that a set of workloads has found, as Markdown for people and JSON for scripts.

Responsible for: its form. A row is a result with its ratio, bound, bar and verdict where the workload's JSON has
them (`bench.report`), else the line that the workload ended with; a workload that failed has a row that says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from bench.bounds import Constants


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """`result`: what was compared, or the whole line. `raw`: the file with the samples, beside its plot."""

    command: str
    result: str
    verdict: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    bound: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    n: int | None = None
    more: str = ""
    raw: str = ""


class _Result(msgspec.Struct, frozen=True):
    point: str
    pair: str
    ratio: float | None  # none was found
    low: float | None
    high: float | None
    n: int
    verdict: str
    bound: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    more: str = ""


class _Found(msgspec.Struct, frozen=True):
    results: list[_Result] = []
    constants: Constants | None = None


class _Document(msgspec.Struct, frozen=True):
    result: _Found


def rows(command: str, lines: Sequence[str], problem: str, raw: Path | None) -> Iterator[Row]:
    """Of a workload that ended with these lines."""
    name = "" if raw is None else raw.name
    found = _Found() if raw is None else _found(raw)
    for each in found.results:
        yield Row(
            command,
            f"{each.point} {each.pair}".strip(),
            each.verdict,
            each.ratio,
            each.low,
            each.high,
            each.bound,
            each.at_least,
            each.at_most,
            each.n,
            each.more,
            name,
        )
    if not found.results and not problem:
        yield from (Row(command, line, line.rsplit(" ", 1)[-1], raw=name) for line in lines)
    if problem:
        yield Row(command, "did not end well", problem, raw=name)


def write(folder: Path, table: Sequence[Row]) -> Path:
    """`summary.md` and `summary.json`; the folder is made where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1))
    path = folder / "summary.md"
    path.write_text(markdown(table))
    return path


def markdown(table: Sequence[Row]) -> str:
    head = ("command", "result", "ratio", "95 %", "bound", "bar", "n", "", "verdict", "samples")
    cells = [head, ("---",) * len(head), *(_cells(row) for row in table)]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in cells)


def _cells(row: Row) -> tuple[str, ...]:
    bar = f">= {row.at_least:.3g}" if row.at_least is not None else ""
    if row.at_most is not None:
        bar = f"<= {row.at_most:.3g}"
    interval = "" if row.low is None or row.high is None else f"{row.low:.3g}-{row.high:.3g}"
    number = "" if row.n is None else str(row.n)
    return (
        row.command,
        row.result,
        _short(row.ratio),
        interval,
        _short(row.bound),
        bar,
        number,
        row.more,
        row.verdict,
        row.raw,
    )


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _found(raw: Path) -> _Found:
    """Nothing of a file that is no report."""
    try:
        document = json.loads(raw.read_text(), parse_constant=lambda name: None)  # NaN: no ratio was found
        return msgspec.convert(document, _Document).result
    except (OSError, ValueError, msgspec.ValidationError):
        return _Found()
