"""Plots of results: lines with intervals over a parameter, as a PNG beside the JSON.

matplotlib is optional (`pip install --group bench`); without it nothing is drawn, and a line says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Line:
    """`low` and `high`, where given, align with `y`."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dashed: bool = False


@dataclass(slots=True)
class Chart:
    title: str
    x: str
    y: str
    lines: list[Line] = field(default_factory=list)
    log: bool = False


def draw(path: Path, charts: Sequence[Chart]) -> str:
    """What to print: where the plot is, or why there is none."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib.figure import Figure
    except ImportError:
        return "no plot: matplotlib is not installed (pip install --group bench)"
    figure = Figure(figsize=(5.5 * len(charts), 4), layout="constrained")
    for axes, chart in zip(figure.subplots(1, len(charts), squeeze=False)[0], charts, strict=True):
        for number, line in enumerate(chart.lines):
            style = "k--" if line.dashed else f"C{number}-o"
            axes.plot(line.x, line.y, style, label=line.label)
            if line.low:
                axes.fill_between(line.x, line.low, line.high, color=f"C{number}", alpha=0.2)
        axes.set(title=chart.title, xlabel=chart.x, ylabel=chart.y)
        if chart.log:
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
    return f"plot: {path.relative_to(path.parent.parent.parent)}"
