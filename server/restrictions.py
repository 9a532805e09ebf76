"""Which tokens and words an output must do without, checked and turned into ids.

Responsible for: `allowed_token_ids` and `bad_words`, their caps, and errors that name them. A word is forbidden as
it begins a text and as it follows a space, which are different tokens; spelt with other tokens it may still appear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from server.errors import BadRequest
from server.generation import GenerationParams
from server.tokenizer import Tokenizer

MAX_BAD_WORDS = 128
MAX_BAD_WORD_CHARACTERS = 128  # of each
MAX_ALLOWED_IDS = 4096


def restricted(
    params: GenerationParams,
    tokenizer: Tokenizer,
    allowed_token_ids: Sequence[int] | None,
    bad_words: Sequence[str] | None,
) -> GenerationParams:
    """Raises BadRequest."""
    if allowed_token_ids is None and not bad_words:
        return params
    if len(bad_words or ()) > MAX_BAD_WORDS:
        raise BadRequest(f"bad_words may have at most {MAX_BAD_WORDS} entries.", param="bad_words")
    sampling = msgspec.structs.replace(
        params.sampling,
        allowed_token_ids=None if allowed_token_ids is None else _allowed(allowed_token_ids, tokenizer),
        bad_words=tuple(ids for word in bad_words or () for ids in _spellings(word, tokenizer)),
    )
    return replace(params, sampling=sampling)


def _allowed(ids: Sequence[int], tokenizer: Tokenizer) -> tuple[int, ...]:
    if not 1 <= len(ids) <= MAX_ALLOWED_IDS:
        raise BadRequest(
            f"allowed_token_ids must have between 1 and {MAX_ALLOWED_IDS} entries.", param="allowed_token_ids"
        )
    if not all(0 <= id < tokenizer.vocab_size for id in ids):
        raise BadRequest(
            f"allowed_token_ids may have ids between 0 and {tokenizer.vocab_size - 1}.",
            param="allowed_token_ids",
        )
    return tuple(sorted(set(ids)))


def _spellings(word: str, tokenizer: Tokenizer) -> set[tuple[int, ...]]:
    if not 0 < len(word) <= MAX_BAD_WORD_CHARACTERS:
        raise BadRequest(
            f"bad_words must have between 1 and {MAX_BAD_WORD_CHARACTERS} characters each.", param="bad_words"
        )
    text = word.lstrip(" ")
    found = {tuple(tokenizer.encode_continuation(spelt)) for spelt in (text or word, " " + text)}
    return {ids for ids in found if ids}
