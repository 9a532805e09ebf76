"""What comes of a run: a text table as it grows, and one JSON document rewritten after every message.

Responsible for: rendering and files. Invariant: both files hold everything that was said so far, whatever ends
the run. Leaves to others: what is measured.
"""

from __future__ import annotations

import platform
import subprocess
import time
from pathlib import Path

import msgspec

from bench.gpu.report import Began, Constants, Ended, Gate, Header, Message, Note, Row, Target, Value

ROOT = Path(__file__).resolve().parent.parent.parent
_WIDTH = 9


class TableData(msgspec.Struct):
    name: str
    columns: tuple[str, ...]
    rows: list[tuple[Value, ...]] = []


class TargetData(msgspec.Struct):
    name: str
    value: float
    bound: float
    at_least: bool
    unit: str
    ok: bool | None  # None: not judged here


class SectionData(msgspec.Struct):
    name: str
    status: str = "running"
    seconds: float = 0.0
    detail: str = ""
    constants: list[Constants] = []
    tables: list[TableData] = []
    gates: list[Gate] = []
    targets: list[TargetData] = []
    notes: list[str] = []


class Document(msgspec.Struct):
    """The JSON file."""

    date: str
    commit: str
    command: str
    python: str
    host: str
    small: bool
    sections: list[SectionData] = []


class Results:
    """Owns `<out>/gpu-<date>.json` and `.txt`."""

    def __init__(self, out: Path, command: str, small: bool, commit: str | None = None) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.document = Document(
            date=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            commit=commit or _commit(),
            command=command,
            python=platform.python_version(),
            host=f"{platform.machine()} {platform.system()}",
            small=small,
        )
        stem = f"gpu-{time.strftime('%Y%m%d-%H%M%S')}"
        self.json_path, self.text_path = out / f"{stem}.json", out / f"{stem}.txt"
        self._text = self.text_path.open("w", encoding="utf-8")
        self._open: TableData | None = None
        document = self.document
        self._say(f"# {document.date} commit {document.commit}\n# {command}")

    @property
    def ok(self) -> bool:
        """No section failed or was cut; targets that were missed are results, not failures."""
        return all(section.status in ("ok", "skipped") for section in self.document.sections)

    def close(self) -> None:
        """Print what passed and what did not, then close the files."""
        self._summary()
        self._save()
        self._text.close()

    def take(self, message: Message) -> None:
        """Print a message and keep it."""
        sections = self.document.sections
        match message:
            case Began(name, text, _):
                sections.append(SectionData(name))
                self._say(f"\n== {name}: {text}")
            case Ended(_, status, seconds, detail):
                section = sections[-1]
                section.status, section.seconds, section.detail = status, seconds, detail
                self._say(f"-- {section.name} {status} in {seconds:.1f} s{f': {detail}' if detail else ''}")
            case Constants():
                sections[-1].constants.append(message)
                self._say(
                    f"{message.device}, {message.dtype}: copy {message.bandwidth_gb_s:.0f} GB/s, product "
                    f"{message.rate_tflop_s:.1f} TFLOP/s (torch {message.torch}, triton {message.triton})"
                )
            case Header(name, columns):
                sections[-1].tables.append(TableData(name, columns))
            case Row(name, values):
                table = next(table for table in reversed(sections[-1].tables) if table.name == name)
                table.rows.append(values)
                self._say_row(table, values)
            case Gate(name, ok, detail):
                sections[-1].gates.append(message)
                if not ok:
                    self._say(f"WRONG {name}: {detail}")
            case Target():
                sections[-1].targets.append(_judged(message))
                self._say("target " + _target(sections[-1].targets[-1]))
            case Note(text):
                sections[-1].notes.append(text)
                self._say(text)
        self._save()

    def _summary(self) -> None:
        sections = self.document.sections
        self._say("\n== summary")
        for section in sections:
            held = sum(gate.ok for gate in section.gates)
            gates = f"gates {held}/{len(section.gates)}" if section.gates else "no gates"
            self._say(
                f"{section.name:<14} {section.status:<8} {section.seconds:6.1f} s  {gates}  {section.detail}"
            )
        for target in (target for section in sections for target in section.targets):
            self._say(_target(target))
        self._say(f"gpu {'ok' if self.ok else 'failed'} {self.json_path}")

    def _say_row(self, table: TableData, values: tuple[Value, ...]) -> None:
        """Under its table's heading, which is said again when another table's rows came between."""
        if self._open is not table:
            self._open = table
            self._say(f"\n{table.name}\n" + _cells(table.columns, table.columns))
        self._say(_cells(table.columns, values))

    def _say(self, text: str) -> None:
        print(text, flush=True)
        self._text.write(text + "\n")
        self._text.flush()

    def _save(self) -> None:
        partial = self.json_path.with_suffix(".part")
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(self.document), indent=1))
        partial.replace(self.json_path)


def _judged(target: Target) -> TargetData:
    ok = target.ok if target.judged else None
    return TargetData(target.name, target.value, target.bound, target.at_least, target.unit, ok)


def _target(target: TargetData) -> str:
    sign = ">=" if target.at_least else "<="
    verdict = {True: "pass", False: "FAIL", None: "not judged here"}[target.ok]
    return f"{target.name:<58} {target.value:8.3g} {sign} {target.bound:g} {target.unit:<5} {verdict}"


def _cells(columns: tuple[str, ...], values: tuple[Value, ...]) -> str:
    """The first column is a label, the others are figures as wide as their heading."""
    first = f"{_cell(values[0]):<40}"
    others = (
        f"{_cell(value):>{max(_WIDTH, len(column))}}"
        for column, value in zip(columns[1:], values[1:], strict=True)
    )
    return " ".join((first, *others))


def _cell(value: Value) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def _commit() -> str:
    """The commit of the checkout, "+" where files differ from it; "unknown" outside git."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"
