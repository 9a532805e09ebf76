from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from bench import stats
from bench.bounds import Constants
from bench.report import Report, paired
from bench.workloads.all import last_lines

LINE = re.compile(
    r"^(?P<workload>\S+)(?P<point>( \S+)*?) (?P<pair>[\w-]+/[\w-]+) (?P<ratio>\S+) "
    r"\[(?P<low>[^-]+)-(?P<high>[^\]]+)\]"
    r"( bound (?P<bound>\S+))?.* n=(?P<n>\d+) (?P<verdict>.+)$"
)


def test_a_line_can_be_read_by_a_script() -> None:
    result = paired(
        "apps=24 slots=4", ("ours", "radix"), [1.0] * 5, [1.6, 1.65, 1.6, 1.65, 1.6], bound=1.71, share=0.92
    )
    found = LINE.match(result.line("B4"))
    assert found is not None
    assert found["workload"] == "B4"
    assert found["pair"] == "ours/radix"
    assert 1.6 <= float(found["ratio"]) <= 1.65
    assert float(found["low"]) < float(found["ratio"]) < float(found["high"])
    assert found["bound"] == "1.71"
    assert (found["n"], found["verdict"]) == ("5", "ok")


def test_a_bar_that_is_missed_is_named() -> None:
    slow = paired("", ("ours", "radix"), [1.0, 1.0], [1.5, 1.5], bound=2.0, share=0.9)
    assert slow.verdict == "below 1.8"
    high = paired("", ("radix", "ours"), [1.0, 1.0], [1.6, 1.6], at_most=1.5)
    assert high.verdict == "above 1.5"
    assert paired("", ("ours", "radix"), [1.0], [2.0], at_least=1.5, also=False).verdict != "ok"


def test_a_rate_that_was_not_found_meets_no_bar() -> None:
    assert paired("", ("ours", "none"), [1.0], [math.nan], at_least=3.0).verdict == "below 3"


def test_a_report_ends_with_its_lines_after_all_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stats, "RESULTS", tmp_path / "bench" / "out")
    monkeypatch.setattr("bench.report.RESULTS", tmp_path / "bench" / "out")
    monkeypatch.setattr("bench.report.plot.draw", lambda path, charts: f"plot: {len(charts)}")
    (tmp_path / "bench" / "out").mkdir(parents=True)
    report = Report("B4", {"seeds": 2}, Constants(3.0, 0.1, 0.001, 0.08))
    report.add(paired("apps=6", ("ours", "radix"), [1.0, 1.0], [1.2, 1.3]))
    report.add(paired("apps=24", ("ours", "radix"), [1.0, 1.0], [1.6, 1.7]))
    assert report.finish() == 0
    assert last_lines(capsys.readouterr().out) == [result.line("B4") for result in report.results]
    assert len(list((tmp_path / "bench" / "out").glob("B4-*.json"))) == 1


def test_samples_of_one_point_are_kept_together() -> None:
    report = Report("B9", {})
    report.keep("F=4", {"ours": [1.0], "none": [2.0]})
    report.keep("F=4", {"ours": [1.0], "radix": [1.5]})
    assert report.samples == {"F=4": {"ours": [1.0], "none": [2.0], "radix": [1.5]}}


def test_of_a_workload_that_died_the_last_word_is_kept() -> None:
    assert last_lines("it began\nand died\n") == ["and died"]
    assert last_lines("") == []
