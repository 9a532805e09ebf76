"""The comparison as a table: a line for each contestant and load."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from bench.peers.comparison import Seen
from bench.peers.load import Load, Run
from bench.stats import percentile

HEAD = (
    *("model", "load", "server", "tokens/s", "ms/token"),
    *("ttft p50", "p95 ms", "gap p50", "p95 ms", "CPU s per 1,000 tokens"),
)


def table(model: str, loads: Sequence[Load], seen: Mapping[str, Seen]) -> str:
    rows = [HEAD, *(_row(model, load.name, name, each) for load in loads for name, each in seen.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    for name, each in seen.items():
        lines.append(
            f"{model} {name}: cold start {', '.join(f'{s:.1f}' for s in each.cold_start_s)} s, peak resident "
            f"{each.resident_mb:.0f} MB, {each.idle_share:.1%} of a core while another was loaded, "
            f"{each.rejected} runs refused"
        )
    return "\n".join(line.rstrip() for line in lines)


def pooled(runs: Sequence[Run]) -> tuple[list[float], list[float]]:
    """(milliseconds to the first chunk of every request, between chunks) over all runs."""
    ttft = [request.ttft * 1e3 for run in runs for request in run.requests]
    return ttft, [gap * 1e3 for run in runs for request in run.requests for gap in request.gaps]


def per_token_ms(run: Run) -> float:
    """The mean of its requests' time per token after the first."""
    return statistics.fmean(request.per_token_ms for request in run.requests)


def _row(model: str, load: str, name: str, seen: Seen) -> tuple[str, ...]:
    runs = seen.runs[load]
    rates = [run.tokens / run.seconds for run in runs]
    ttft, gaps = pooled(runs)
    return (
        *(model, load, name),
        f"{statistics.median(rates):.0f} [{min(rates):.0f}-{max(rates):.0f}]",
        f"{statistics.median(map(per_token_ms, runs)):.2f}",
        *(f"{percentile(ttft, share):.1f}" for share in (0.5, 0.95)),
        *(f"{percentile(gaps, share):.2f}" for share in (0.5, 0.95)),
        _cpu(runs),
    )


def _cpu(runs: Sequence[Run]) -> str:
    tokens = sum(run.tokens for run in runs)
    totals: dict[str, float] = {}
    for run in runs:
        for role, seconds in run.cpu.items():
            totals[role] = totals.get(role, 0.0) + seconds
    shown = {role: seconds / tokens * 1e3 for role, seconds in totals.items()}
    return ", ".join(f"{role} {value:.2f}" for role, value in shown.items() if value >= 0.005)
