"""What bytes a token stands for.

Responsible for: a token's bytes by its id, and for saying whether text is simply the tokens' bytes one after the
other (`exact`). That holds for the two schemes nearly all decoders use, byte-level BPE and SentencePiece with byte
fallback; then text can be assembled token by token in constant time. For any other decoder the bytes are an
approximation for display, and text has to come from the tokenizer itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache

from tokenizers import Tokenizer

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_METASPACE = "▁"

Scheme = Callable[[str], bytes]


class Bytes(dict[int, bytes]):
    """Of each token, looked up when it is first asked for. Ids outside of the vocabulary are empty bytes."""

    def __init__(self, look_up: Callable[[int], bytes], known: Mapping[int, bytes]) -> None:
        super().__init__(known)
        self._look_up = look_up

    def __missing__(self, id: int) -> bytes:
        found = self[id] = self._look_up(id)
        return found


class Vocabulary:
    """`bytes` of all tokens, and the `visible` ones: those of special tokens are empty."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._scheme = _scheme(tokenizer)
        self.exact = self._scheme is not None
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(id for id, token in added.items() if token.special)
        self.bytes = Bytes(self._look_up, {})
        self.visible = Bytes(self.bytes.__getitem__, dict.fromkeys(self.special_ids, b""))

    def _look_up(self, id: int) -> bytes:
        if not 0 <= id < 2**32:
            return b""
        piece: str | None = self._tokenizer.id_to_token(id)
        if piece is None:
            return b""
        if self._scheme is not None:
            return self._scheme(piece)
        decoded: str = self._tokenizer.decode([id], skip_special_tokens=False)
        return decoded.encode()


def _scheme(tokenizer: Tokenizer) -> Scheme | None:
    """How a piece of this tokenizer spells bytes; None when its decoder is neither of the known schemes."""
    if tokenizer.decoder is None:
        return None
    decoder = json.loads(tokenizer.decoder.__getstate__())
    first, *others = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    kinds = {step["type"] for step in others}
    if first["type"] == "ByteLevel" and not others:
        return _byte_level
    # `Strip` removes the dummy space at the start of a whole text; an output continues one.
    if _spaces_out(first) and kinds <= {"ByteFallback", "Fuse", "Strip"}:
        return _byte_fallback if "ByteFallback" in kinds else _metaspace
    return None


def _spaces_out(step: dict[str, object]) -> bool:
    """Whether this step of a decoder turns SentencePiece's mark into a space, and does nothing else."""
    if step["type"] == "Metaspace":
        return step["replacement"] == _METASPACE
    return step == {"type": "Replace", "pattern": {"String": _METASPACE}, "content": " "}


def _byte_level(piece: str) -> bytes:
    table = _byte_of_character()
    try:
        return bytes(table[character] for character in piece)
    except KeyError:  # a token that was added as plain text
        return piece.encode()


def _byte_fallback(piece: str) -> bytes:
    byte = _BYTE_PIECE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else _metaspace(piece)


def _metaspace(piece: str) -> bytes:
    return piece.replace(_METASPACE, " ").encode()


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable latin-1 characters are themselves, the other bytes count up from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    rest = (byte for byte in range(256) if chr(byte) not in table)
    return table | {chr(0x100 + i): byte for i, byte in enumerate(rest)}
