"""Compiled kernels are taken from where another process has put them, and only what is the same is taken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

numba = pytest.importorskip("numba")

from ops.compiled.cache import cache_root, kernels_name, open_cache  # noqa: E402

SOURCES = {"a.py": b"x = 1", "b.py": b"y = 2"}
VERSIONS = {"numba": "1.0", "llvmlite": "2.0"}
NAME = kernels_name(SOURCES, VERSIONS, "znver4 +avx2")


def _double(number: int) -> int:
    return 2 * number


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    return tmp_path / "parrot" / "kernels"


def test_the_same_name_is_for_the_same_sources_whatever_their_order() -> None:
    assert kernels_name(dict(reversed(SOURCES.items())), VERSIONS, "znver4 +avx2") == NAME


@pytest.mark.parametrize(
    ("sources", "versions", "cpu"),
    [
        ({**SOURCES, "b.py": b"y = 3"}, VERSIONS, "znver4 +avx2"),
        ({**SOURCES, "c.py": b""}, VERSIONS, "znver4 +avx2"),
        ({"a.py": b"y = 2", "b.py": b"x = 1"}, VERSIONS, "znver4 +avx2"),
        (SOURCES, {**VERSIONS, "numba": "1.1"}, "znver4 +avx2"),
        (SOURCES, {**VERSIONS, "llvmlite": "2.1"}, "znver4 +avx2"),
        (SOURCES, VERSIONS, "znver4 -avx2"),
    ],
)
def test_whatever_a_kernel_is_made_from_changes_the_name(
    sources: dict[str, bytes], versions: dict[str, str], cpu: str
) -> None:
    assert kernels_name(sources, versions, cpu) != NAME


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_CACHE_HOME": "/var/cache"}, "/var/cache/parrot/kernels"),
        ({"XDG_CACHE_HOME": "not/absolute"}, "/home/me/.cache/parrot/kernels"),
        ({}, "/home/me/.cache/parrot/kernels"),
    ],
)
def test_folders_lie_where_caches_do(environment: dict[str, str], expected: str) -> None:
    assert cache_root(environment, Path("/home/me")) == Path(expected)


def test_what_was_compiled_once_is_loaded_by_the_next_who_wants_it(root: Path) -> None:
    folder = open_cache()
    assert folder is not None
    assert folder.parent == root
    first = numba.njit(_double, cache=True)
    assert first(21) == 42
    assert open_cache() == folder
    second = numba.njit(_double, cache=True)
    assert second(21) == 42
    assert list(folder.rglob("*.nbi"))
    assert (sum(first.stats.cache_hits.values()), sum(second.stats.cache_hits.values())) == (0, 1)


def test_where_nothing_can_be_written_it_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    assert open_cache() is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert numba.config.CACHE_DIR == ""


def test_of_old_folders_the_last_used_is_kept(root: Path) -> None:
    for used, name in ((100, "older"), (200, "old"), (50, "oldest")):
        (root / name / "inner").mkdir(parents=True)
        os.utime(root / name, (used, used))
    folder = open_cache()
    assert folder is not None
    assert {path.name for path in root.iterdir()} == {"old", folder.name}
