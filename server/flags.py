"""Flags over a TOML file over the environment, and what `--help` says.

Responsible for: reading them into a ServerConfig; an error names the flag or the key. A key of the TOML file is a
flag's name with underscores. Leaves to others: what is allowed (server.config).
"""

from __future__ import annotations

import argparse
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec

from compat.openai.reasoning import ReasoningParser
from engine.config import Device
from server.config import FEATURES, ConfigError, ServerConfig, ToolCallParser, checked, with_devices
from server.tenant import ApiKey


def parse_config(argv: Sequence[str]) -> ServerConfig:
    """Flags > TOML file > environment (`PARROT_API_KEY`) > defaults. Raises ConfigError; `--help` exits."""
    flags = vars(_parser().parse_args(argv))
    values: dict[str, Any] = {}
    if key := os.environ.get("PARROT_API_KEY"):
        values["api_key"] = [key]
    if path := flags.pop("config", None):
        values.update(_read_toml(Path(path)))
    values.update(flags)
    if isinstance(path := values.get("api_key_file"), str):
        values["keys"] = _read_keys(Path(path))
    try:
        config = msgspec.convert(values, ServerConfig, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(_name_the_flag(str(error))) from None
    if "devices" in values:
        config = with_devices(config, engines_given="engines" in values)
    return checked(config)


def _read_keys(path: Path) -> tuple[ApiKey, ...]:
    """A table `[[keys]]` for each: `key`, and perhaps `salt` and `max_concurrency`."""
    values = _load_toml("--api-key-file", path)
    try:
        keys = msgspec.convert(values, _KeyFile).keys
    except msgspec.ValidationError as error:
        raise ConfigError(f"--api-key-file {path}: {error}") from None
    if len({entry.key for entry in keys}) != len(keys) or not keys:
        raise ConfigError(f"--api-key-file {path}: there must be keys, and each only once")
    return keys


class _KeyFile(msgspec.Struct, forbid_unknown_fields=True):
    keys: tuple[ApiKey, ...]


def _load_toml(flag: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{flag} {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{flag} {path}: {error}") from None


def _read_toml(path: Path) -> dict[str, Any]:
    values = _load_toml("--config", path)
    if "keys" in values:
        raise ConfigError(f"--config {path}: keys have a file of their own (--api-key-file)")
    for name in ("api_key", "served_model_name", "disable"):
        if isinstance(values.get(name), str):
            values[name] = [values[name]]
    if "devices" in values:
        devices = values["devices"]
        entries = devices if isinstance(devices, list) else _names(str(devices))
        values["devices"] = [str(entry) for entry in entries]
    if isinstance(values.get("kv_cache_memory"), str):
        values["kv_cache_memory"] = _memory(values["kv_cache_memory"])
    return values


def _name_the_flag(message: str) -> str:
    """'Expected `int`, got `str` - at `$.port`' names a flag once it is turned round."""
    text, _, path = message.partition(" - at `$.")
    return f"--{path.rstrip('`').replace('_', '-')}: {text}" if path else message


def _memory(text: str) -> int:
    """'512M', '2GiB' or a number of bytes."""
    units = {"k": 2**10, "m": 2**20, "g": 2**30}
    number = text.lower().removesuffix("b").removesuffix("i")
    try:
        if number and number[-1] in units:
            return int(float(number[:-1]) * units[number[-1]])
        return int(number)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 512M or 2GiB") from None


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_server.py",
        description="Serve a model to OpenAI clients and to programs of semantic variables.",
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Without --model, a small bundled model is served. Every flag may stand in the --config file:\n"
        '  port = 8000\n  model = "Qwen/Qwen3-0.6B"\n  disable = ["prefix-cache"]',
    )
    _add_server_flags(parser.add_argument_group("server"))
    _add_limit_flags(parser.add_argument_group("limits"))
    _add_model_flags(parser.add_argument_group("model"))
    _add_engine_flags(parser.add_argument_group("engine"))
    return parser


def _add_server_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--config", metavar="FILE", help="TOML file with the same names as the flags")
    group.add_argument("--host", help="address to listen on (127.0.0.1)")
    group.add_argument("--port", type=int, help="port to listen on; 0 picks a free one (8000)")
    group.add_argument(
        "--api-key", nargs="+", metavar="KEY", help="keys that clients must send; also PARROT_API_KEY"
    )
    group.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="TOML, a [[keys]] for each: key, salt (the same: a shared cache), max_concurrency",
    )
    group.add_argument("--open-metrics", action="store_true", help="serve /metrics without a key")
    group.add_argument(
        "--allow-public-prefixes", action="store_true", help='honour "share": "public" across tenants'
    )
    group.add_argument("--max-body-size", type=_memory, metavar="SIZE", help="largest request body (16M)")
    group.add_argument(
        "--shutdown-grace",
        type=float,
        metavar="S",
        help="seconds that running work may take after SIGTERM (10)",
    )
    group.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="(info)")
    group.add_argument(
        "--log-format", choices=("text", "json"), help="json: an object a line, with ids (text)"
    )
    group.add_argument("--access-log", action="store_true", help="a line for every answer")


def _add_limit_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-queued-requests",
        type=int,
        metavar="N",
        help="requests beyond those that run, before others are told 429 (2048)",
    )
    group.add_argument(
        "--max-queued-tokens",
        type=int,
        metavar="N",
        help="prompt tokens without a first output token, before others are told 429 (4194304)",
    )
    group.add_argument(
        "--max-concurrency-per-key",
        type=int,
        metavar="N",
        help="requests and running sessions of one API key at a time (no limit)",
    )
    group.add_argument(
        "--request-timeout",
        type=float,
        metavar="S",
        help="a request that takes longer, queueing included, ends with 504; of a program, what has not ended "
        "by then fails; in a session, each output has so long once its inputs exist (no limit)",
    )
    group.add_argument(
        "--client-timeout",
        type=float,
        metavar="S",
        help="a client that does not read its stream, or send its body, for so long is disconnected (60)",
    )
    group.add_argument(
        "--step-timeout",
        type=float,
        metavar="S",
        help="an engine that has work and ends no step for so long is killed and started again (120)",
    )


def _add_model_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model", help="a Hugging Face folder or hub id (the bundled model)")
    group.add_argument("--served-model-name", nargs="+", metavar="NAME", help="names the API answers to")
    group.add_argument(
        "--reasoning-parser",
        choices=get_args(ReasoningParser),
        help="think: <think>...</think> is no part of the answer (auto: as the chat template has it)",
    )
    group.add_argument(
        "--tool-call-parser",
        choices=get_args(ToolCallParser),
        help="how the model writes calls (auto: as the chat template has it)",
    )
    group.add_argument(
        "--load-format", choices=("safetensors", "dummy"), help="dummy: random weights from config.json"
    )
    group.add_argument(
        "--dtype", choices=("auto", "bfloat16", "float16", "float32"), help="of weights and KV cache (auto)"
    )
    group.add_argument("--max-model-len", type=int, metavar="N", help="longest prompt + output, in tokens")
    group.add_argument("--seed", type=int, help="of dummy weights and of unseeded requests (0)")


def _add_engine_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--engine", choices=("torch", "sim"), help="sim: simulated, without a model (torch)")
    group.add_argument(
        "--engines", type=int, metavar="N", help="engine processes; on a CPU a share of cores each (1)"
    )
    group.add_argument(
        "--device",
        choices=get_args(Device),
        help="what engines compute on; auto: a GPU if there is one (auto)",
    )
    group.add_argument(
        "--devices",
        type=_names,
        metavar="0,1,...",
        help="an engine on each of these GPUs; one that is named twice is shared by two engines",
    )
    group.add_argument(
        "--gpu-memory-utilization",
        type=float,
        metavar="SHARE",
        help="of a GPU's memory, for weights, work space and KV cache of all engines on it (0.9)",
    )
    group.add_argument(
        "--deterministic",
        action="store_true",
        help="on a GPU: an answer does not depend on what else runs, as it never does on the CPU; slower",
    )
    group.add_argument(
        "--max-num-seqs", type=int, metavar="N", help="sequences in one step (64; on a GPU 256)"
    )
    group.add_argument(
        "--max-num-batched-tokens", type=int, metavar="N", help="tokens in one step (512; on a GPU 2048)"
    )
    group.add_argument("--block-size", type=int, metavar="N", help="tokens in a KV block (64)")
    group.add_argument(
        "--kv-cache-memory", type=_memory, metavar="SIZE", help="KV cache of each engine, like 512M or 4GiB"
    )
    group.add_argument("--num-threads", type=int, metavar="N", help="of each CPU engine (measured at start)")
    group.add_argument("--disable", type=_names, metavar="FEATURE,...", help=f"of {', '.join(FEATURES)}")
    group.add_argument("--sim-step-ms", type=float, metavar="MS", help="base step time of --engine sim (1.0)")
    group.add_argument(
        "--sim-crash-token",
        type=int,
        metavar="ID",
        help="--engine sim kills itself on this token, to try that",
    )
    group.add_argument(
        "--inject-faults",
        action="store_true",
        help="engines fail when they get real-time signals, to try that (engine/runner/injection.py)",
    )
