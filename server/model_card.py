"""The model that is served: its folder, and the names it answers to."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from server.config import ServerConfig
from server.errors import ModelNotFound


class ModelError(Exception):
    """The model of `--model` cannot be had; the message says why."""


class _Config(msgspec.Struct, frozen=True):
    max_position_embeddings: int | None = None


@dataclass(frozen=True, slots=True)
class ModelCard:
    """`max_model_len` is the limit of prompt + output in tokens; the engines may say a lower one."""

    id: str
    served_names: tuple[str, ...]
    folder: Path
    max_model_len: int
    created: float

    def check(self, name: str | None, param: str = "model") -> None:
        """Raises ModelNotFound, naming `param`, unless `name` is absent or one of ours."""
        if name is not None and name not in self.served_names:
            names = ", ".join(self.served_names)
            raise ModelNotFound(f"The model {name!r} does not exist; this server has {names}.", param=param)


def resolve_model(config: ServerConfig) -> ModelCard:
    """The local folder of `--model`, downloaded from the hub when it is an id. Blocks. Raises ModelError."""
    folder = Path(config.model)
    if not folder.is_dir():
        folder = _download(config.model)
    if not (folder / "config.json").is_file():
        raise ModelError(f"--model {config.model}: {folder} has no config.json")
    name = folder.name if Path(config.model).is_dir() else config.model
    limit = config.max_model_len or _max_positions(folder)
    return ModelCard(name, config.served_model_name or (name,), folder, limit, time.time())


def _max_positions(folder: Path) -> int:
    try:
        config = msgspec.json.decode((folder / "config.json").read_bytes(), type=_Config)
    except msgspec.DecodeError as error:
        raise ModelError(f"--model: {folder / 'config.json'}: {error}") from None
    return config.max_position_embeddings or 4096


def _download(name: str) -> Path:
    # Imported here: it takes longer than all the rest of the server, and the bundled model does not need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"--model {name}: not a folder here, and the hub says: {reason}") from None
