"""Who is compared, and how each is started."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers.processes import Peer, free_port, start

MODEL = "peer"
"""The name that the checkpoint is served under."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """`command` without host and port. `model`: what requests call it. `ready`: the path that is 200 when it can
    serve. `text`: prompts are sent as text, since ids are not taken. `forced`: it takes ignore_eos."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    model: str = MODEL
    ready: str = "/health"
    start_timeout_s: float = 900.0
    text: bool = False
    forced: bool = True

    @contextmanager
    def running(self) -> Iterator[Peer]:
        """Up and answering."""
        port = free_port()
        with start(
            (*self.command, "--host", "127.0.0.1", "--port", str(port)), self.environment, port
        ) as peer:
            peer.wait_ready(self.ready, self.start_timeout_s)
            yield peer


def ours(folder: Path, flags: tuple[str, ...] = ()) -> Contestant:
    command = (sys.executable, "run_server.py", "--model", str(folder), "--served-model-name", MODEL, *flags)
    return Contestant("ours", command, {"OMP_WAIT_POLICY": "PASSIVE"}, ready="/health/ready")


def vllm_configurations(python: Path, folder: Path, kv_gib: int) -> dict[str, Contestant]:
    """Threads bound as vLLM does by default or to both cores, times its own dtype or float32."""
    found: dict[str, Contestant] = {}
    for bind in ("auto", "0-1"):
        for dtype in ("bfloat16", "float32"):
            name = f"vllm-{dtype}-{'default' if bind == 'auto' else 'bound'}"
            found[name] = _vllm(name, python, folder, dtype, bind, kv_gib)
    return found


def _vllm(name: str, python: Path, folder: Path, dtype: str, bind: str, kv_gib: int) -> Contestant:
    module = ("-m", "vllm.entrypoints.openai.api_server")
    flags = (
        "--model",
        str(folder),
        "--served-model-name",
        MODEL,
        "--dtype",
        dtype,
        "--max-model-len",
        "4096",
    )
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": str(kv_gib),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": "",
        **({"VLLM_CPU_OMP_THREADS_BIND": bind} if bind != "auto" else {}),
    }
    return Contestant(name, (str(python), *module, *flags), environment)


def transformers_serve(python: Path, folder: Path, dtype: str) -> Contestant:
    """With continuous batching, in blocks that keep it small. It refuses ignore_eos; the checkpoints never end."""
    flags = (
        "--dtype",
        dtype,
        "--continuous-batching",
        "--cb-num-blocks",
        "1024",
        "--cb-max-batch-tokens",
        "2048",
    )
    command = (str(python.parent / "transformers"), "serve", str(folder), *flags)
    environment = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    return Contestant("transformers", command, environment, str(folder), text=True, forced=False)
