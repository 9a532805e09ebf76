"""Canonical ids: from the text of a task's context to the token ids that it is generated from.

    fills between two outputs     one string, tokenised as one; special tokens only at the very start
    an output                     its own ids as they were generated, without EOS

so that the ids are a function of the text alone, however it was put together (scheduling.md, section 1). When
a stop string cut an output inside of a token, the ids that fit into the text stay, and the rest of the text
goes to the front of the next run.

Also PrefixHash: a keyed hash of the ids up to every boundary, by which prompts with a common beginning find
each other. Pure, and safe to run on a thread.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from typing import Protocol

_HASH_BYTES = 16

PUBLIC_SALT = b"public"
"""Of blocks that all tenants share."""


class Codec(Protocol):
    """The part of a tokenizer that this needs."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...
    def encode_continuation(self, text: str) -> list[int]: ...
    def encode_settled(
        self, text: str, *, continues: bool = False, add_special_tokens: bool = True
    ) -> list[int]: ...
    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str: ...
    def token_bytes(self, id: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Fill:
    """Text that is given: a constant, or a variable's value."""

    text: str
    is_variable: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """An output that stays as generated. `truncated`: a stop string ended it, perhaps inside of a token."""

    token_ids: tuple[int, ...]
    text: str
    truncated: bool = False


Piece = Fill | Kept


@dataclass(frozen=True, slots=True)
class Context:
    """`boundaries`: ascending positions in `token_ids` where a constant or a variable ends, the end included.

    `ends`: where each piece ends. `leading`: so many ids follow from the leading constant alone; 0 unless it was
    asked for.
    """

    token_ids: tuple[int, ...]
    boundaries: tuple[int, ...]
    ends: tuple[int, ...] = ()
    leading: int = 0


def canonical(pieces: Sequence[Piece], codec: Codec, *, chat: bool, public: bool = False) -> Context:
    """`chat`: the text comes from a chat template, which writes its special tokens itself.

    `public`: find out what the leading constant alone determines, which costs tokenising it once more.
    """
    ids: list[int] = []
    boundaries: set[int] = set()
    piece_ends: list[int] = []
    rest = ""
    for number, (fills, output) in enumerate(_runs(pieces)):
        texts = [rest, *(fill.text for fill in fills)]
        run = "".join(texts)
        found = (
            codec.encode(run, add_special_tokens=not chat) if number == 0 else codec.encode_continuation(run)
        )
        ends = _positions(found, texts, codec)
        boundaries.update(len(ids) + end for end in (ends if number else ends[1:]))
        piece_ends += [len(ids) + end for end in ends[1:]]
        ids += found
        rest = ""
        if output is not None:
            kept, rest = _kept(output, codec)
            ids += kept
            boundaries.add(len(ids))
            piece_ends.append(len(ids))
    leading = _leading(ids, pieces, codec, chat) if public else 0
    return Context(tuple(ids), tuple(sorted(boundaries - {0})), tuple(piece_ends), leading)


def settled(pieces: Sequence[Piece], codec: Codec, *, chat: bool) -> tuple[int, ...]:
    """Of a context that is known only so far: the ids that it begins with whatever comes after `pieces`."""
    *runs, (fills, _) = _runs(pieces)
    ids: list[int] = []
    rest = ""
    if runs:
        closed = sum(len(fills) + 1 for fills, _ in runs)
        ids += canonical(pieces[:closed], codec, chat=chat).token_ids
        last = runs[-1][1]
        assert last is not None, "an output ends every run but the last"
        rest = _kept(last, codec)[1]
    text = rest + "".join(fill.text for fill in fills)
    ids += codec.encode_settled(text, continues=bool(runs), add_special_tokens=not chat)
    return tuple(ids)


def prefix_hashes(context: Context, salt: bytes) -> tuple[bytes, ...]:
    """One for each boundary. Equal exactly when salt and all ids before the boundary are equal."""
    hasher = blake2b(key=salt[:64], digest_size=_HASH_BYTES, person=b"prefix hash")
    hashes: list[bytes] = []
    start = 0
    for boundary in context.boundaries:
        hasher.update(array("i", context.token_ids[start:boundary]).tobytes())
        hashes.append(hasher.digest())
        start = boundary
    return tuple(hashes)


def _runs(pieces: Sequence[Piece]) -> Iterator[tuple[list[Fill], Kept | None]]:
    """The fills between outputs, each run with the output that ends it; the last has none."""
    fills: list[Fill] = []
    for piece in pieces:
        if isinstance(piece, Fill):
            fills.append(piece)
        else:
            yield fills, piece
            fills = []
    yield fills, None


def _positions(ids: list[int], texts: list[str], codec: Codec) -> list[int]:
    """How many of `ids` lie within the first 1, 2, ... of `texts`, which are what they were made of.

    Counted in bytes from the end, where no special token or dummy space is; a normaliser that changes lengths
    makes it an estimate.
    """
    ends = list(accumulate(len(codec.token_bytes(id)) for id in ids))
    lengths = list(accumulate(len(text.encode("utf-8", "surrogatepass")) for text in texts))
    surplus = (ends[-1] if ends else 0) - lengths[-1]
    return [bisect_right(ends, length + surplus) for length in lengths]


def _leading(ids: list[int], pieces: Sequence[Piece], codec: Codec, chat: bool) -> int:
    """The ids that the leading constant also has with nothing after it: they tell nothing of a value."""
    first = pieces[0] if pieces else None
    if not isinstance(first, Fill) or first.is_variable:
        return 0
    alone = codec.encode(first.text, add_special_tokens=not chat)
    return next(
        (index for index, (id, own) in enumerate(zip(ids, alone, strict=False)) if id != own),
        min(len(ids), len(alone)),
    )


def _kept(output: Kept, codec: Codec) -> tuple[tuple[int, ...], str]:
    """The ids that stay, and the text that they do not reach."""
    ids, text = output.token_ids, output.text
    if not output.truncated:
        return ids, ""
    count = _count_by_bytes(ids, text.encode("utf-8", "surrogatepass"), codec)
    if count is None:
        count = _count_by_text(ids, text, codec)
        return ids[:count], text[len(codec.decode(ids[:count])) :]
    size = sum(len(codec.token_bytes(id)) for id in ids[:count])
    return ids[:count], text.encode("utf-8", "surrogatepass")[size:].decode("utf-8", "surrogatepass")


def _count_by_bytes(ids: Sequence[int], data: bytes, codec: Codec) -> int | None:
    """The longest prefix of `ids` whose bytes are whole characters at the start of `data`.

    None when the ids do not go on as `data` does: then text is not simply the bytes of the tokens.
    """
    count = position = 0
    for number, id in enumerate(ids, 1):
        piece = codec.token_bytes(id)
        rest = data[position : position + len(piece)]
        if rest != piece:
            return count if piece.startswith(rest) and position + len(rest) == len(data) else None
        position += len(piece)
        if position == len(data) or data[position] & 0xC0 != 0x80:
            count = number
    return count


def _count_by_text(ids: Sequence[int], text: str, codec: Codec) -> int:
    """The same by decoding. The length of the text grows with the ids, so the end is found by halving."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(codec.decode(ids[:middle])) <= len(text) else (low, middle - 1)
    while low and not text.startswith(codec.decode(ids[:low])):
        low -= 1
    return low
