"""The text of a model's tokenizer, for grammars: `tokenizer.json`, or what a folder's older files convert to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def tokenizer_json(folder: Path, converted: bytes | None) -> Callable[[], str]:
    """Read when it is asked for. Raises OSError then."""

    def read() -> str:
        if converted is not None:
            return converted.decode()
        return (folder / "tokenizer.json").read_text(encoding="utf-8")

    return read
