"""The engine under measurement: how one is made, in this process.

Responsible for: `Engines`, which keeps the runner that was loaded last, because weights and captured graphs take
seconds. It is the one place that knows how a mode becomes an engine. Leaves to others: requests (`drive`).
"""

from __future__ import annotations

import gc
from dataclasses import dataclass

import msgspec
import torch

from bench.gpu.machine import Machine
from bench.gpu.shapes import ModelShape, folder
from engine.config import EngineConfig
from engine.core import EngineCore
from engine.runner.load import load_runner
from engine.runner.loaded import LoadedRunner

NO_GRAPHS, NO_OVERLAP = "cuda-graphs", "overlap"
NO_SHARED_ATTENTION, NO_PREFIX_CACHE = "shared-prefix-attention", "prefix-cache"


@dataclass(frozen=True, slots=True)
class Mode:
    """disabled: toggles of `--disable`."""

    name: str
    disabled: frozenset[str] = frozenset()
    deterministic: bool = False


DEFAULT = Mode("default")
EAGER = Mode("eager", frozenset({NO_GRAPHS, NO_OVERLAP}))
GRAPHS = Mode("graphs", frozenset({NO_OVERLAP}))
OVERLAP = Mode("graphs+overlap")
DETERMINISTIC = Mode("deterministic", deterministic=True)
PAGED = Mode("paged sharing", frozenset({NO_SHARED_ATTENTION}))
UNSHARED = Mode("no sharing", frozenset({NO_SHARED_ATTENTION, NO_PREFIX_CACHE}))


class Engines:
    """Owns the runner that was loaded last."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._key: tuple[ModelShape, frozenset[str], bool] | None = None
        self._loaded: LoadedRunner | None = None

    @property
    def batched_tokens(self) -> int:
        """The token budget of one step."""
        return 512 if self._machine.small else 8192

    def fits(self, shape: ModelShape) -> bool:
        """Whether weights, some KV and what a step needs beside them have room on the device."""
        if not self._machine.cuda:
            return True
        _, total = torch.cuda.mem_get_info(self._machine.device)
        return 1.5 * shape.parameters * 2 < total

    def core(self, shape: ModelShape, mode: Mode = DEFAULT) -> EngineCore:
        """A fresh scheduler and cache over the runner of this shape; raises LoadError."""
        loaded = self.runner(shape, mode)
        return EngineCore(loaded.runner, loaded.ready, mode.disabled)

    def runner(self, shape: ModelShape, mode: Mode = DEFAULT) -> LoadedRunner:
        """The runner, loaded when another one is in memory."""
        key = (
            shape,
            mode.disabled & {NO_GRAPHS},
            mode.deterministic,
        )  # the other toggles are the scheduler's
        if self._loaded is None or key != self._key:
            self.close()
            self._loaded, self._key = load_runner(self._config(shape, mode), lambda stage, done: None), key
        return self._loaded

    def close(self) -> None:
        """Drop the runner and give its memory back to the device."""
        self._loaded = self._key = None
        gc.collect()
        if self._machine.cuda:
            torch.cuda.empty_cache()

    def _config(self, shape: ModelShape, mode: Mode) -> EngineConfig:
        config = EngineConfig(
            model=str(folder(shape)),
            load_format="dummy",
            device="cuda" if self._machine.cuda else "cpu",
            deterministic=mode.deterministic,
            disabled=mode.disabled,
            max_num_seqs=32 if self._machine.small else 256,
            max_num_batched_tokens=self.batched_tokens,
            max_model_len=2048 if self._machine.small else 32768,
        )
        if not self._machine.small:
            return config
        return msgspec.structs.replace(config, kv_cache_memory=16384 * shape.kv_bytes, num_threads=1)
