"""The GPU kit as a user runs it, small: every section on the CPU, its files, and a section that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from bench.gpu.results import ROOT, Document, SectionData
from bench.gpu.sections import SECTIONS
from tests.e2e.api import until

FIRST_ROW = "tiny-qwen3, default, 1 x 64"
WITHOUT_CUDA = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "PASSIVE"}


def _command(out: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "bench.gpu", "--out", str(out), *flags]


def _document(out: Path) -> Document:
    (path,) = out.glob("gpu-*.json")
    return msgspec.json.decode(path.read_bytes(), type=Document)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Document, str, Path]:
    """One whole run: its JSON, what it printed, and where its files are."""
    out = tmp_path_factory.mktemp("kit")
    done = subprocess.run(
        _command(out), cwd=ROOT, env=WITHOUT_CUDA, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return _document(out), done.stdout, out


def _section(document: Document, name: str) -> SectionData:
    return next(section for section in document.sections if section.name == name)


@pytest.mark.slow
def test_a_small_run_passes_every_gate_and_fills_every_table(finished: tuple[Document, str, Path]) -> None:
    document, _, _ = finished
    assert [section.name for section in document.sections] == list(SECTIONS)
    for section in document.sections:
        if section.name == "gates":
            assert (section.status, section.detail) == ("skipped", "tests/gpu needs a CUDA GPU")
            continue
        assert section.status == "ok", section
        assert section.gates
        assert all(gate.ok for gate in section.gates), section.gates
        assert section.tables
        for table in section.tables:
            assert table.rows, table.name
            assert all(len(row) == len(table.columns) for row in table.rows)


@pytest.mark.slow
def test_a_run_says_what_it_measured_where(finished: tuple[Document, str, Path]) -> None:
    document, _, out = finished
    assert document.small
    assert document.command == f"python -m bench.gpu --out {out}"
    assert document.commit
    assert document.date.startswith("20")
    (constants,) = (constants for section in document.sections for constants in section.constants)
    assert constants.device == "cpu"
    assert constants.bandwidth_gb_s > 0
    assert constants.rate_tflop_s > 0


@pytest.mark.slow
def test_every_target_of_the_kit_stands_beside_its_figure_and_is_not_judged_on_a_cpu(
    finished: tuple[Document, str, Path],
) -> None:
    document, printed, _ = finished
    targets = [target for section in document.sections for target in section.targets]
    for part in ("decode attention", "shared prefix", "0.6B step", "8B step", "roofline", "transformers"):
        assert any(part in target.name for target in targets), part
    assert all(target.ok is None for target in targets)
    assert printed.count("not judged here") == 2 * len(targets)  # where it was measured, and in the summary


@pytest.mark.slow
def test_the_text_file_is_what_was_printed(finished: tuple[Document, str, Path]) -> None:
    _, printed, out = finished
    (path,) = out.glob("gpu-*.txt")
    assert path.read_text(encoding="utf-8") == printed


@pytest.mark.slow
def test_the_same_logits_come_out_of_every_composition(finished: tuple[Document, str, Path]) -> None:
    table, _ = _section(finished[0], "deterministic").tables
    assert len(table.rows) == 12
    assert all(equal == count for _, equal, count, *_ in table.rows)


@contextmanager
def _running(out: Path) -> Iterator[subprocess.Popen[str]]:
    """Two sections; what is not read of the output is read at the end."""
    kit = subprocess.Popen(
        _command(out, "--only", "steps,tuning"),
        cwd=ROOT,
        env=WITHOUT_CUDA,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert kit.stdout is not None
    with kit.stdout:
        yield kit
        kit.stdout.read()
    kit.wait()


def _workers_of(kit: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{kit.pid}/task/{kit.pid}/children").read_text().split()]


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_one_section_and_what_it_measured_stays(tmp_path: Path) -> None:
    with _running(tmp_path) as kit:
        assert kit.stdout is not None
        assert any(FIRST_ROW in line for line in kit.stdout)
        os.kill(_workers_of(kit)[0], signal.SIGKILL)
    assert kit.returncode == 1
    steps, tuning = _document(tmp_path).sections
    assert (steps.status, tuning.status) == ("failed", "ok")
    assert "exit code -9" in steps.detail
    assert steps.tables[0].rows[0][0] == FIRST_ROW


def test_a_run_that_is_ended_says_what_is_missing_and_takes_its_worker_with_it(tmp_path: Path) -> None:
    with _running(tmp_path) as kit:
        assert kit.stdout is not None
        assert kit.stdout.readline().startswith("# ")
        assert until(lambda: bool(_workers_of(kit)))
        (worker,) = _workers_of(kit)
        kit.terminate()
    assert kit.returncode == 130
    assert [section.status for section in _document(tmp_path).sections] == ["cut", "cut"]
    assert not Path(f"/proc/{worker}").exists()


def test_a_section_that_does_not_exist_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        _command(tmp_path, "--only", "kernels,colonels"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "there is no section 'colonels'" in done.stderr
    assert not list(tmp_path.iterdir())
