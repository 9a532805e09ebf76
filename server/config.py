"""What the server was started with, as one immutable ServerConfig.

Responsible for: names, types, defaults, and the errors of a wrong value (which name the flag). Leaves to others:
where values come from (server.flags).
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal

import msgspec

from compat.openai.reasoning import ReasoningParser
from engine.config import Device, EngineKind, LoadFormat
from server.logs import LogFormat
from server.tenant import ApiKey

BUNDLED_MODEL = Path(__file__).resolve().parent.parent / "models" / "parrot-tales"

ToolCallParser = Literal["auto", "none", "hermes", "mistral", "llama3"]

SCHEDULING = (
    "affinity",
    "task-groups",
    "app-fifo",
    "step-limits",
    "ageing",
    "hold-back",
    "srpt",
    "critical-path",
)
"""Of AppScheduler. Without any: requests in the order they come, each on the least loaded engine."""

FEATURES = (
    "prefix-cache",
    "in-flight-dedup",
    "shared-prefix-attention",
    "kept-output",
    "chunked-prefill",
    "pausing",
    "handover",
    "call-dedup",
    "objective-batching",
    "next-use-eviction",
    *SCHEDULING,
    "fair-share",
    "length-prediction",
    "eager-prefill",
    "streamed-prefill",
    "overlap",
    "cuda-graphs",
    "compiled-kernels",
)
"""What `--disable` knows: every optimisation is a toggle."""


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes are bytes where the name says memory or body, tokens where it says len or tokens."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: tuple[str, ...] = ()
    api_key_file: str | None = None
    keys: tuple[ApiKey, ...] = ()  # of api_key_file
    open_metrics: bool = False
    model: str = str(BUNDLED_MODEL)
    served_model_name: tuple[str, ...] = ()
    reasoning_parser: ReasoningParser = "auto"
    tool_call_parser: ToolCallParser = "auto"
    engine: EngineKind = "torch"
    engines: int = 1
    device: Device = "auto"
    devices: tuple[str, ...] = ()  # one engine for each
    gpu_memory_utilization: float = 0.9
    deterministic: bool = False
    load_format: LoadFormat = "safetensors"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    seed: int = 0
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_size: int = 64
    kv_cache_memory: int | None = None
    num_threads: int | None = None
    disable: tuple[str, ...] = ()
    allow_public_prefixes: bool = False
    max_body_size: int = 16 * 2**20
    shutdown_grace: float = 10.0
    step_timeout: float = 120.0
    request_timeout: float | None = None
    client_timeout: float = 60.0
    max_queued_requests: int = 2048
    max_queued_tokens: int = 4 * 2**20
    max_concurrency_per_key: int | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: LogFormat = "text"
    access_log: bool = False
    sim_step_ms: float = 1.0
    sim_crash_token: int | None = None
    inject_faults: bool = False


class ConfigError(Exception):
    """A flag or a key of the file is wrong; the message names it."""


def checked(config: ServerConfig) -> ServerConfig:
    """The same. Raises ConfigError with the flag that is wrong."""
    for name in (
        "engines",
        "max_num_seqs",
        "max_num_batched_tokens",
        "block_size",
        "max_model_len",
        "kv_cache_memory",
        "num_threads",
        "max_body_size",
        "max_queued_requests",
        "max_queued_tokens",
        "max_concurrency_per_key",
    ):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    for name in ("step_timeout", "request_timeout", "client_timeout"):
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"--{name.replace('_', '-')} must be a number above 0, not {value}")
    for name in ("shutdown_grace", "sim_step_ms"):
        value = getattr(config, name)
        if not 0 <= value < math.inf:
            raise ConfigError(f"--{name.replace('_', '-')} must be a number of at least 0, not {value}")
    if not 0 < config.gpu_memory_utilization <= 1:
        raise ConfigError(
            f"--gpu-memory-utilization must be above 0 and at most 1, not {config.gpu_memory_utilization}"
        )
    if not 0 <= config.port <= 65535:
        raise ConfigError(f"--port must be in 0..65535, not {config.port}")
    if unknown := [name for name in config.disable if name not in FEATURES]:
        raise ConfigError(f"--disable knows {', '.join(FEATURES)}; not {', '.join(unknown)}")
    if any(not key for key in config.api_key):
        raise ConfigError("--api-key must not be empty")
    return config


def with_devices(config: ServerConfig, *, engines_given: bool) -> ServerConfig:
    """An engine for each entry of --devices, which nothing else may contradict."""
    if not config.devices:
        raise ConfigError("--devices names no device; leave it out for the default")
    listed = ",".join(config.devices)
    for entry in config.devices:
        if not re.fullmatch(r"\d+|(GPU|MIG)-[0-9A-Za-z/-]+", entry):
            raise ConfigError(f"--devices takes numbers of GPUs like 0,1, or their UUIDs; not {entry!r}")
    if config.engine == "sim":
        raise ConfigError(f"--devices {listed}: --engine sim computes on no device")
    if config.device == "cpu":
        raise ConfigError(f"--devices {listed} and --device cpu contradict each other")
    if engines_given and config.engines != len(config.devices):
        raise ConfigError(
            f"--engines {config.engines} and --devices {listed} contradict each other: "
            f"there is an engine for each of the {len(config.devices)} devices"
        )
    return msgspec.structs.replace(config, device="cuda", engines=len(config.devices))
