"""Where compiled kernels are kept from one process to the next.

numba's own index asks whether the file of a kernel has changed, not those of the functions that it calls, and would
take an old kernel for the new one. So the folder is named by all that a kernel is made from: the sources of this
package, the compilers' versions and the CPU. Folders of other names are removed, but for the last one in use.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import llvmlite
import llvmlite.binding
import numba

logger = logging.getLogger(__name__)

_KEPT = 2
"""Folders: the present one, and one for somebody who goes back and forth between two versions."""

_LEAST_BYTES = 64 * 2**20
"""A disk with less room counts as full: numba raises when it cannot save."""


def open_cache() -> Path | None:
    """Make the folder ready for kernels that are jitted with `cache=True` from now on, and tell numba of it.

    The folder; None, and a log line, where nothing can be written: then every process has to compile for itself.
    """
    try:
        folder = cache_root(os.environ, Path.home()) / kernels_name(*_present())
        _make(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        logger.warning("compiled kernels are not kept, and each start compiles them again: %s", error)
        return None
    numba.config.CACHE_DIR = str(folder)
    return folder


def cache_root(environment: Mapping[str, str], home: Path) -> Path:
    """Holds a folder for each name."""
    given = Path(environment.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else home / ".cache") / "parrot" / "kernels"


def kernels_name(sources: Mapping[str, bytes], versions: Mapping[str, str], cpu: str) -> str:
    """A name for what these sources compile to."""
    digest = hashlib.sha256()
    for kind in (
        sources,
        {name: version.encode() for name, version in versions.items()},
        {"cpu": cpu.encode()},
    ):
        for name, content in sorted(kind.items()):
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def _present() -> tuple[dict[str, bytes], dict[str, str], str]:
    sources = {path.name: path.read_bytes() for path in Path(__file__).parent.glob("*.py")}
    versions = {"numba": numba.__version__, "llvmlite": llvmlite.__version__}
    cpu = f"{llvmlite.binding.get_host_cpu_name()} {llvmlite.binding.get_host_cpu_features().flatten()}"
    return sources, versions, cpu


def _make(folder: Path) -> None:
    """Make the folder or mark it as used, and see that it can be written. Raises OSError."""
    new = not folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
    if shutil.disk_usage(folder).free < _LEAST_BYTES:
        raise OSError(f"{folder}: the disk is full")
    os.utime(folder)
    if new:
        _remove_old(folder.parent)


def _remove_old(root: Path) -> None:
    used = sorted(root.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in used[_KEPT:]:
        shutil.rmtree(path, ignore_errors=True)
