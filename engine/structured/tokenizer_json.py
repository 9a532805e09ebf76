"""The text of a model's tokenizer, for grammars: `tokenizer.json`, or what a folder's older files convert to."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)


def tokenizer_json(folder: Path, converted: bytes | None) -> Callable[[], str]:
    """Read when it is asked for. Raises OSError then."""

    def read() -> str:
        if converted is not None:
            return converted.decode()
        return (folder / "tokenizer.json").read_text(encoding="utf-8")

    return read


def converted_tokenizer(folder: Path) -> bytes | None:
    """The JSON of a tokenizer that has no tokenizer.json, converted by transformers; None: nothing to
    convert.
    """
    if (folder / "tokenizer.json").is_file():
        return None
    if not any(
        (folder / name).is_file() for name in ("tokenizer.model", "vocab.json", "tokenizer_config.json")
    ):
        logger.warning("%s has no tokenizer", folder)
        return None
    from transformers import AutoTokenizer  # seconds to import, so only for the models that need it

    tokenizer = AutoTokenizer.from_pretrained(
        folder, use_fast=True, local_files_only=True, trust_remote_code=False
    )
    text: str = tokenizer.backend_tokenizer.to_str()
    return text.encode()
