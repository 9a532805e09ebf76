"""The set as a whole: what fails does not stop the rest, and everything found is in one table."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench import stats, summary
from bench.report import Report, paired
from bench.serving import ROOT
from bench.workloads import all as every


def test_the_full_set_fits_into_an_hour_and_the_quick_one_into_fifteen_minutes() -> None:
    assert sum(job.minutes for job in every.FULL) <= 60
    assert sum(job.minutes for job in every.QUICK) <= 15


def test_a_workload_that_hangs_is_ended_with_all_that_it_has_started() -> None:
    stubborn = "trap '' INT; echo begun; sleep 60 & wait; sleep 60"
    output, problem = every.run(["sh", "-c", stubborn], limit_s=0.1, stop_s=0.1)
    assert output == "begun\n"
    assert problem.startswith("more than")


def test_a_workload_that_fails_is_named_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "B4.json"
    raw.write_text('{"result": {"results": []}}')
    said = {
        "b1": ("", "exit code 1"),
        "b4": (f"raw samples: {raw}\nB4 ours/radix 1.6 [1.5-1.7] n=5 ok\n", ""),
    }
    monkeypatch.setattr(every, "run", lambda command, limit_s: said[command[3]])
    monkeypatch.setattr(every, "FULL", (every.Job("b1", 1), every.Job("b4 --seeds 5", 1)))
    monkeypatch.setattr(every, "write_json", lambda name, result: ROOT / "all.json")
    assert every.main(["--summary", str(tmp_path / "new" / "folder")]) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith("failed: b1")
    table = json.loads((tmp_path / "new" / "folder" / "summary.json").read_bytes())
    assert [(row["command"], row["verdict"]) for row in table] == [
        ("b1", "exit code 1"),
        ("b4 --seeds 5", "ok"),
    ]


def test_the_table_has_every_result_with_its_bound_and_its_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "RESULTS", tmp_path / "bench" / "out")
    monkeypatch.setattr("bench.report.RESULTS", tmp_path / "bench" / "out")
    monkeypatch.setattr("bench.report.plot.draw", lambda path, charts: "plot: none")
    (tmp_path / "bench" / "out").mkdir(parents=True)
    report = Report("B4", {"seeds": 2})
    report.add(paired("apps=24", ("ours", "radix"), [1.0, 1.0], [1.6, 1.6], bound=1.7, at_least=1.5))
    report.add(paired("apps=6", ("ours", "radix"), [1.0], [math.nan], at_most=1.1))
    report.finish()
    (raw,) = (tmp_path / "bench" / "out").glob("B4-*.json")
    table = list(summary.rows("b4", ["a line"], "", raw))
    assert [(row.result, row.verdict) for row in table] == [
        ("apps=24 ours/radix", "ok"),
        ("apps=6 ours/radix", "above 1.1"),
    ]
    lines = summary.markdown(table).splitlines()
    assert lines[2] == f"| b4 | apps=24 ours/radix | 1.6 | 1.6-1.6 | 1.7 | >= 1.5 | 2 |  | ok | {raw.name} |"
    assert lines[3] == f"| b4 | apps=6 ours/radix |  |  |  | <= 1.1 | 1 |  | above 1.1 | {raw.name} |"
