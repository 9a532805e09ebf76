"""Reads a model's tensors: from a local Hugging Face folder, or random ones for `--load-format dummy`.

Invariants: safetensors only, never pickle, no code from the folder; a tensor that is missing or of another
shape is a ValueError that names it and the file. Memory: files are mapped, a tensor is copied when it is
packed, so that loading needs little more than the model itself.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import safe_open

MAX_INDEX_BYTES = 64 * 1024 * 1024

Progress = Callable[[float], None]
"""Called with the fraction that is loaded."""


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class FolderWeights:
    """The tensors of `folder`/model.safetensors, or of the shards that model.safetensors.index.json names.

    dtype: what they are converted to, but for those that are stored as `kept`, which are handed out as they are.
    """

    def __init__(
        self, folder: Path, dtype: torch.dtype, progress: Progress, *, kept: torch.dtype | None = None
    ) -> None:
        self._folder = folder
        self._dtype, self._kept = dtype, kept
        self._progress = progress
        self._files: dict[str, Any] = {}  # safetensors' handles have no public type
        self._file_of = _locate_tensors(folder)
        self._read = 0

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        file = self._file_of.get(name)
        if file is None:
            raise ValueError(f"{self._folder}: there is no tensor {name!r}")
        if file not in self._files:
            self._files[file] = safe_open(self._folder / file, framework="pt")
        tensor: torch.Tensor = self._files[file].get_tensor(name)
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{self._folder / file}: {name} has shape {tuple(tensor.shape)}, not {shape}")
        self._read += 1
        self._progress(min(1.0, self._read / len(self._file_of)))
        return tensor if tensor.dtype == self._kept else tensor.to(self._dtype)


class DummyWeights:
    """Random tensors, a function of seed, name and shape: nothing is read but the config."""

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self._seed = seed
        self._dtype = dtype

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(shape, dtype=self._dtype)
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode(), self._seed & 0xFFFFFFFF))
        return torch.randn(shape, generator=generator).mul_(0.02).to(self._dtype)


def _locate_tensors(folder: Path) -> dict[str, str]:
    """Tensor name -> file name in `folder`."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise ValueError(f"{index} is larger than {MAX_INDEX_BYTES} bytes")
        file_of = msgspec.json.decode(index.read_bytes(), type=_Index).weight_map
        for file in set(file_of.values()):
            if Path(file).name != file or not file.endswith(".safetensors"):
                raise ValueError(
                    f"{index} names {file!r}, which is not a safetensors file of the same folder"
                )
        return file_of
    single = folder / "model.safetensors"
    if not single.is_file():
        raise ValueError(
            f"{folder} has no model.safetensors; only safetensors are loaded, never pickled weights"
        )
    with safe_open(single, framework="pt") as opened:
        return dict.fromkeys(opened.keys(), single.name)
