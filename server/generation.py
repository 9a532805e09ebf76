"""From an engine's tokens to text: what one generation asks for and what it yields.

Responsible for: turning TokenDeltas into TextDeltas (incremental text, stop strings, held-back tokens) and for
the meaning of a finish. Pure; the driver is `server.scheduler.dispatcher`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import msgspec

from engine.types import SamplingParams, TokenDelta, TokenLogprobs
from server.detokenizer import TextStream
from server.errors import ApiError, BadRequest, EngineFailed
from server.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """`sampling` is what the engine needs; the rest concerns text and stays in the server.

    `fit`: nobody asked for this max_tokens, so it gives way to what the prompt leaves of the context.
    `seeded`: the client chose the seed, so it may count on the same answer.
    """

    sampling: SamplingParams
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    skip_special_tokens: bool = True
    fit: bool = False
    seeded: bool = False


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """New text and the tokens behind it. Empty only when it is the last (`finish_reason` set).

    `logprobs` aligns with `token_ids` when asked for. `stop_reason`: the stop string or the `stop_token_ids` member
    that ended it; None for the model's own end. `cached_tokens`: prompt tokens that were not computed.
    `prompt_logprobs`: in the first one, where asked for, of all tokens of the prompt but the first.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: Literal["stop", "length"] | None = None
    stop_reason: str | int | None = None
    cached_tokens: int = 0
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


def merged(deltas: Sequence[TextDelta]) -> TextDelta:
    """Of one generation, in order, as one."""
    if len(deltas) == 1:
        return deltas[0]
    return msgspec.structs.replace(
        deltas[-1],
        text="".join([delta.text for delta in deltas]),
        token_ids=tuple(chain.from_iterable(delta.token_ids for delta in deltas)),
        logprobs=tuple(chain.from_iterable(delta.logprobs for delta in deltas)),
        prompt_logprobs=deltas[0].prompt_logprobs,
    )


class TextAssembler:
    """One generation's text, whatever engines it comes from.

    Owns what is held back: half a character, or the start of a stop string. What was cached of its prompt is what
    the first delta said: an engine that goes on with it finds other things in its cache.
    """

    __slots__ = ("_cached_tokens", "_ids", "_logprobs", "_prompt_logprobs", "_stop_ids", "_stream")

    def __init__(self, tokenizer: Tokenizer, params: GenerationParams) -> None:
        self._stream = TextStream(
            tokenizer,
            params.stop,
            params.include_stop,
            params.skip_special_tokens,
            min_tokens=params.sampling.min_tokens,
        )
        self._stop_ids = frozenset(params.sampling.stop_token_ids)
        self._cached_tokens: int | None = None
        self._ids: tuple[int, ...] = ()
        self._logprobs: tuple[TokenLogprobs, ...] = ()
        self._prompt_logprobs: tuple[TokenLogprobs, ...] = ()

    def feed(self, delta: TokenDelta) -> TextDelta | None:
        """None: nothing to show yet. Raises ApiError when the engine reports one for this request."""
        if delta.finish_reason == "error":
            raise engine_error(delta.error)
        if self._cached_tokens is None:
            self._cached_tokens = delta.cached_tokens
        if delta.prompt_logprobs:
            self._prompt_logprobs = delta.prompt_logprobs
        text = self._stream.push(delta.token_ids) if delta.token_ids else ""
        stopped = self._stream.stopped
        finish = delta.finish_reason
        if finish is not None and stopped is None:
            text += self._stream.flush()
            stopped = self._stream.stopped
        if not text and finish is None and stopped is None:
            self._ids += delta.token_ids
            self._logprobs += delta.logprobs
            return None
        ids, logprobs = self._ids + delta.token_ids, self._logprobs + delta.logprobs
        scores, cached = self._prompt_logprobs, self._cached_tokens
        self._ids, self._logprobs, self._prompt_logprobs = (), (), ()
        if stopped is not None:
            return TextDelta(text, ids, logprobs, "stop", stopped, cached, scores)
        reason: Literal["stop", "length"] | None = None
        if finish is not None:
            reason = "length" if finish == "length" else "stop"
        stop_id = delta.stop_token_id if delta.stop_token_id in self._stop_ids else None
        return TextDelta(text, ids, logprobs, reason, stop_id, cached, scores)


def engine_error(message: str | None) -> ApiError:
    """What the engine refuses for its size, or for a grammar that is too much, is the client's error; else ours."""
    text = message or "the engine failed this request"
    if text.startswith("too long: "):
        return BadRequest(text.removeprefix("too long: "), code="context_length_exceeded")
    if text.startswith("the grammar ") or text.endswith("every one is forbidden"):
        return BadRequest(text[0].upper() + text[1:], code="invalid_constraint")
    return EngineFailed(text)
