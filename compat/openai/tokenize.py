"""`POST /tokenize` and `/detokenize`, in the shapes that vLLM's clients know."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import orjson

from compat.openai.chat import Message


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Exactly one of `prompt` and `messages`. Special tokens are added to a prompt unless told otherwise."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    tokens: list[int]
    model: str | None = None


def tokenized(tokens: Sequence[int], max_model_len: int, texts: Sequence[str] | None) -> bytes:
    return orjson.dumps(
        {"count": len(tokens), "max_model_len": max_model_len, "tokens": list(tokens), "token_strs": texts}
    )


def detokenized(text: str) -> bytes:
    return orjson.dumps({"prompt": text})
