"""Log-probabilities in the shapes of the two endpoints.

Responsible for: naming tokens by text and bytes, and for what JSON cannot say (minus infinity is -9999, as
OpenAI has it). Legacy completions name a token that is no whole character `bytes:\\xe4\\xbd`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import orjson

from engine.types import TokenLogprobs

TokenBytes = Callable[[int], bytes]

_LOWEST = -9999.0


def chat_logprobs(ids: Sequence[int], logprobs: Sequence[TokenLogprobs], bytes_of: TokenBytes) -> bytes:
    """`{"content": [...], "refusal": null}` of the tokens of one chunk or answer."""
    return orjson.dumps({"content": chat_tokens(ids, logprobs, bytes_of), "refusal": None})


def chat_tokens(
    ids: Sequence[int], logprobs: Sequence[TokenLogprobs], bytes_of: TokenBytes
) -> list[dict[str, object]]:
    """An object for each token."""
    return [
        {
            **_chat_token(id, at.logprob, bytes_of),
            "top_logprobs": [_chat_token(top.token_id, top.logprob, bytes_of) for top in at.top],
        }
        for id, at in zip(ids, logprobs, strict=True)
    ]


def prompt_logprobs(
    ids: Sequence[int], logprobs: Sequence[TokenLogprobs], top: int, bytes_of: TokenBytes
) -> bytes:
    """vLLM's list: null for the first token, which follows nothing, then for each one an object by token id."""
    places: list[dict[str, dict[str, float | int | str | None]] | None] = [None] if ids else []
    for id, at in zip(ids[1:], logprobs, strict=True):
        place = {str(id): _ranked(id, at.logprob, at.rank, bytes_of)}
        for rank, other in enumerate(at.top[:top], 1):
            place.setdefault(str(other.token_id), _ranked(other.token_id, other.logprob, rank, bytes_of))
        places.append(place)
    return orjson.dumps(places)


def _ranked(
    id: int, logprob: float, rank: int | None, bytes_of: TokenBytes
) -> dict[str, float | int | str | None]:
    return {"logprob": _json(logprob), "rank": rank, "decoded_token": bytes_of(id).decode(errors="replace")}


def completion_logprobs(
    ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None], bytes_of: TokenBytes, offset: int
) -> tuple[bytes, int]:
    """The four parallel lists, and the text offset after them. The chosen token is always among the top.

    None is of a prompt's first token, which follows nothing.
    """
    names = [_name(bytes_of(id)) for id in ids]
    offsets = [offset]
    for id in ids:
        offsets.append(offsets[-1] + len(bytes_of(id).decode(errors="replace")))
    top = [
        None
        if at is None
        else {_name(bytes_of(other.token_id)): _json(other.logprob) for other in at.top}
        | {name: _json(at.logprob)}
        for name, at in zip(names, logprobs, strict=True)
    ]
    lists = {
        "tokens": names,
        "token_logprobs": [None if at is None else _json(at.logprob) for at in logprobs],
        "top_logprobs": top,
        "text_offset": offsets[:-1],
    }
    return orjson.dumps(lists), offsets[-1]


def _chat_token(id: int, logprob: float, bytes_of: TokenBytes) -> dict[str, str | float | list[int]]:
    data = bytes_of(id)
    return {"token": data.decode(errors="replace"), "logprob": _json(logprob), "bytes": list(data)}


def _name(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _json(logprob: float) -> float:
    return logprob if logprob > _LOWEST else _LOWEST  # NaN too
