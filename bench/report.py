"""What a workload leaves: a table, JSON with every raw sample, a plot, and a last line for each result.

    B4 apps=24 ours/radix 1.63 [1.55-1.71] bound 1.71 last 1.02 n=5 ok

Responsible for: that form, and the verdict. A bar is a share of the bound where there is one, or a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from bench import plot
from bench.bounds import Constants
from bench.stats import RESULTS, ratio_interval, write_json


@dataclass(frozen=True, slots=True)
class Result:
    """A ratio with its 95 % interval. `at_least` and `at_most` are the bar; `more` goes into the line as it is."""

    point: str
    pair: str
    ratio: float
    low: float
    high: float
    n: int
    bound: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    more: str = ""
    also: bool = True  # a second condition of the same bar

    @property
    def verdict(self) -> str:
        if self.at_least is not None and not self.ratio >= self.at_least:
            return f"below {self.at_least:.3g}"
        if self.at_most is not None and not self.ratio <= self.at_most:
            return f"above {self.at_most:.3g}"
        return "ok" if self.also else "the ratio is ok, the rest is not"

    def line(self, workload: str) -> str:
        point = f" {self.point}" if self.point else ""
        bound = "" if self.bound is None else f" bound {self.bound:.3g}"
        more = f" {self.more}" if self.more else ""
        interval = f"{self.ratio:.3g} [{self.low:.3g}-{self.high:.3g}]"
        return f"{workload}{point} {self.pair} {interval}{bound}{more} n={self.n} {self.verdict}"


def paired(
    point: str,
    names: tuple[str, str],
    ours: Sequence[float],
    baseline: Sequence[float],
    *,
    bound: float | None = None,
    share: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    more: str = "",
    also: bool = True,
) -> Result:
    """baseline over ours, of paired samples: how many times better the first of `names` is. `share` of `bound`
    is the bar."""
    ratio, low, high = ratio_interval(baseline, ours)
    if share is not None and bound is not None:
        at_least = share * bound
    return Result(
        point, "/".join(names), ratio, low, high, len(ours), bound, at_least, at_most, more=more, also=also
    )


@dataclass(slots=True)
class Report:
    """One workload's results, in the order in which they came; `title`, like `B4`, begins every line."""

    title: str
    settings: dict[str, object]
    constants: Constants | None = None
    results: list[Result] = field(default_factory=list)
    samples: dict[str, object] = field(default_factory=dict)
    charts: list[plot.Chart] = field(default_factory=list)

    def keep(self, name: str, samples: object) -> None:
        """Raw samples, for the JSON; what has the same name is put together."""
        before = self.samples.get(name)
        if isinstance(before, dict) and isinstance(samples, dict):
            samples = before | samples
        self.samples[name] = samples

    def add(self, result: Result) -> None:
        self.results.append(result)
        print(f"  {result.line(self.title)}", flush=True)

    def finish(self) -> int:
        """Write everything; the exit code."""
        path = write_json(
            self.title.replace(" ", "-"),
            {
                "settings": self.settings,
                "constants": None if self.constants is None else asdict(self.constants),
                "results": [asdict(result) | {"verdict": result.verdict} for result in self.results],
                "samples": self.samples,
            },
        )
        if self.constants is not None:
            print(f"constants: {self.constants}")
        print(self.table())
        print(f"raw samples: {path.relative_to(RESULTS.parent.parent)}")
        if self.results:
            print(plot.draw(path.with_suffix(".png"), self.charts or [self._ratios()]))
        for result in self.results:
            print(result.line(self.title), flush=True)
        return 0

    def _ratios(self) -> plot.Chart:
        """Of every result, where a workload draws nothing else."""
        found = [result for result in self.results if math.isfinite(result.high)]
        numbers = list(range(1, len(found) + 1))
        names = "\n".join(f"{number} {r.point} {r.pair}" for number, r in zip(numbers, found, strict=True))
        ratios, low, high = [r.ratio for r in found], [r.low for r in found], [r.high for r in found]
        return plot.Chart(self.title, names, "ratio", [plot.Line("measured", numbers, ratios, low, high)])

    def table(self) -> str:
        head = ("point", "ratio", "95 %", "bound", "bar", "n", "", "verdict")
        rows = [head, *(self._row(result) for result in self.results)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        return "\n".join(line.rstrip() for line in lines)

    def _row(self, result: Result) -> tuple[str, ...]:
        bar = "-"
        if result.at_least is not None:
            bar = f">= {result.at_least:.3g}"
        elif result.at_most is not None:
            bar = f"<= {result.at_most:.3g}"
        return (
            f"{result.point} {result.pair}".strip(),
            f"{result.ratio:.3g}",
            f"{result.low:.3g}-{result.high:.3g}",
            "-" if result.bound is None else f"{result.bound:.3g}",
            bar,
            str(result.n),
            result.more,
            result.verdict,
        )
