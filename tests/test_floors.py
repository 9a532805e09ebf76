"""Who may import whom. The rules are ARCHITECTURE.md's; lazy imports count."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("server", "engine", "ops", "compat", "parrot", "bench", "run_server")

ALLOWED = {
    "run_server": ("server.ahead", "server.app", "server.config", "server.flags"),
    "server": ("server", "compat", "parrot.wire", "engine.types", "engine.config", "engine.client"),
    "server.ahead": ("server.config", "engine.launch"),
    "compat": ("compat", "engine.types"),
    "engine": ("engine",),
    "engine.runner": ("engine", "ops"),
    "engine.models": ("engine", "ops"),
    "ops": ("ops",),
    "parrot": ("parrot",),
    "parrot.wire": (),
    "bench": ("bench", "server", "compat", "engine", "ops", "parrot"),
}
TORCH_ONLY_IN = ("engine.runner", "engine.models", "ops", "bench")
NUMBA_ONLY_IN = ("ops.compiled",)
AIOHTTP_ONLY_IN = ("server.http", "server.app", "run_server", "parrot.transport", "bench")
INSIDE_SERVER = (  # each may import those before it, and itself
    ("server.errors", "server.config", "server.tenant", "server.tokenizer", "server.detokenizer"),
    ("server.graph",),
    ("server.session", "server.scheduler", "server.admission"),
    (
        "server.service",
        "server.sessions",
        "server.session_runner",
        "server.program",
        "server.call_cache",
        "server.subscription",
    ),
    ("server.http",),
    ("server.app", "server.flags"),
)


def _modules() -> Iterator[tuple[str, Path]]:
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] in OURS:
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def _rule(module: str) -> tuple[str, ...]:
    return ALLOWED[max((name for name in ALLOWED if _inside(module, name)), key=len)]


MODULES = sorted(_modules())


def test_there_is_something_to_check() -> None:
    assert {name.split(".")[0] for name, _ in MODULES} >= {"server", "engine", "ops", "compat", "parrot"}


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_a_module_imports_only_from_its_floor_or_below(module: str, path: Path) -> None:
    for imported in _imports(path):
        if imported.split(".")[0] in OURS:
            assert any(_inside(imported, name) for name in _rule(module)), f"{module} imports {imported}"
        if _inside(imported, "torch") or _inside(imported, "triton"):
            assert any(_inside(module, name) for name in TORCH_ONLY_IN), f"{module} imports {imported}"
        if _inside(imported, "numba") or _inside(imported, "llvmlite"):
            assert any(_inside(module, name) for name in NUMBA_ONLY_IN), f"{module} imports {imported}"
        if _inside(imported, "aiohttp"):
            assert any(_inside(module, name) for name in AIOHTTP_ONLY_IN), f"{module} imports {imported}"


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_inside_the_server_nobody_imports_from_above(module: str, path: Path) -> None:
    level = _level(module)
    if level is None:
        return
    for imported in _imports(path):
        other = _level(imported)
        if other is not None:
            assert other <= level, f"{module} imports {imported}"
    if _inside(module, "server.session"):
        assert not any(_inside(name, "server.scheduler") for name in _imports(path))
    if _inside(module, "server.scheduler"):
        assert not any(_inside(name, "server.session") for name in _imports(path))


def _level(module: str) -> int | None:
    for level, names in enumerate(INSIDE_SERVER):
        if any(_inside(module, name) for name in names):
            return level
    return None


@pytest.mark.parametrize("module", ["server.app", "parrot"])
def test_importing_it_leaves_the_heavy_libraries_out(module: str) -> None:
    heavy = {"numba", "torch", "transformers", "triton"}
    code = f"import sys, {module}; print(sorted({heavy!r} & set(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
