"""Which runner serves an engine's configuration: the GPU's, where there is one and it may be used, or the CPU's.

Responsible for the choice and for the errors of a GPU that was asked for and is not there (LoadError, naming the
flag). Leaves loading to the runner's own module, imported late: the CPU's needs no Triton, the GPU's no oneDNN.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec

import torch

from engine.config import EngineConfig
from engine.runner.loaded import LoadedRunner, LoadError, Progress

logger = logging.getLogger(__name__)


def load_runner(config: EngineConfig, progress: Progress) -> LoadedRunner:
    """Load the model of `config` onto its device. Raises LoadError with a line for the user."""
    device = choose_device(config, visible_gpus())
    if device == "cuda" and find_spec("triton") is None:
        if config.device == "cuda":
            raise LoadError("--device cuda, --devices: the GPU's kernels need Triton, which is not installed")
        logger.warning(
            "there is a GPU, but Triton is not installed: computing on the CPU, which is far slower"
        )
        device = "cpu"
    if device == "cpu":
        from engine.runner.cpu_loader import load_runner as load_on_cpu

        return load_on_cpu(config, progress)
    from engine.runner.device_loader import load_runner as load_on_gpu

    return load_on_gpu(config, progress)


def visible_gpus() -> int:
    """How many GPUs torch can use in this process."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def choose_device(config: EngineConfig, gpus: int) -> str:
    """'cpu' or 'cuda'. Raises LoadError when the GPU that was asked for is not there."""
    if config.device == "cpu" or (config.device == "auto" and not gpus):
        return "cpu"
    if gpus:
        return "cuda"
    asked = "--device cuda" if config.visible_device is None else f"--devices {config.visible_device}"
    reason = "this torch is a build for CPUs" if torch.version.cuda is None else "torch sees no such GPU"
    raise LoadError(f"{asked}: {reason}; leave the flag out to compute on the CPU")
