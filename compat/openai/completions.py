"""`POST /v1/completions`: its fields, and its chunks and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from compat.openai.common import (
    MAX_PROMPTS,
    MAX_SEQUENCES,
    GenerationFields,
    InvalidField,
    check_generation,
    check_logprobs,
    refuse,
)
from compat.openai.encoder import Choice, Delta, Encoder, finish_members
from compat.openai.logprobs import completion_logprobs

DEFAULT_MAX_TOKENS = 16


class CompletionRequest(GenerationFields, frozen=True, kw_only=True):
    """A prompt is a text or ids; several of either make one request."""

    prompt: str | list[str | int | list[int]]
    echo: bool | None = None
    logprobs: int | None = None
    suffix: Any = None


def check(request: CompletionRequest) -> None:
    """Raises InvalidField."""
    check_generation(request)
    refuse(request, ("suffix",))
    check_logprobs(request.logprobs, "logprobs")
    if request.echo and request.logprobs is not None:
        raise InvalidField(
            "logprobs with echo are not supported by this server.", "logprobs", "unsupported_field"
        )


def prompts(request: CompletionRequest) -> list[str | list[int]]:
    """The request's prompts, each a text or ids. Raises InvalidField for a mixture, none, or too many."""
    given = request.prompt
    if isinstance(given, str):
        return [given]
    if not given:
        raise InvalidField("prompt must not be empty.", "prompt")
    ids = [item for item in given if isinstance(item, int)]
    if len(ids) == len(given):
        return [ids]
    found = [item for item in given if not isinstance(item, int)]
    if len({type(item) for item in given}) > 1:
        raise InvalidField("prompt must not mix texts and token ids.", "prompt", "invalid_type")
    if len(found) > MAX_PROMPTS or len(found) * request.choices > MAX_SEQUENCES:
        raise InvalidField(
            f"A request may have {MAX_PROMPTS} prompts, and {MAX_SEQUENCES} choices over all of them.",
            "prompt",
        )
    return found


class CompletionEncoder(Encoder):
    chunk_object = "text_completion"
    answer_object = "text_completion"

    def _text_head(self, index: int) -> bytes:
        return self._chunk_head + b'"choices":[{"index":%d,"text":' % index

    def _text_end(self) -> bytes:
        return b',"logprobs":null,"finish_reason":null}]'

    def _chunk(self, choice: Choice, delta: Delta, first: bool) -> bytes:
        text = choice.prompt.echo + delta.text if first else delta.text
        parts = [self._text_heads[choice.index], orjson.dumps(text), b',"logprobs":']
        parts.append(self._logprobs(choice, delta.token_ids, delta))
        if delta.finish_reason is None:
            parts.append(b',"finish_reason":null')
        else:
            parts += (b",", finish_members(delta.finish_reason, delta.stop_reason))
        if self._shown.token_ids:
            parts.append(_token_ids(choice.prompt.token_ids if first else None, delta.token_ids))
        parts += (b"}]", self._usage_member(), b"}")
        return b"".join(parts)

    def _whole(self, choice: Choice) -> bytes:
        text = choice.prompt.echo + "".join(choice.parts)
        ids = _token_ids(choice.prompt.token_ids, choice.token_ids) if self._shown.token_ids else b""
        return b'{"index":%d,"text":%b,"logprobs":%b,%b%b}' % (
            choice.index,
            orjson.dumps(text),
            self._logprobs(choice, choice.token_ids, choice),
            finish_members(choice.finish_reason, choice.stop_reason),
            ids,
        )

    def _logprobs(self, choice: Choice, ids: Sequence[int], of: Delta | Choice) -> bytes:
        if not self._shown.logprobs:
            return b"null"
        data, choice.text_offset = completion_logprobs(ids, of.logprobs, self._bytes_of, choice.text_offset)
        return data


def _token_ids(prompt_ids: Sequence[int] | None, ids: Sequence[int]) -> bytes:
    prompt = b"" if prompt_ids is None else b',"prompt_token_ids":' + orjson.dumps(list(prompt_ids))
    return prompt + b',"token_ids":' + orjson.dumps(list(ids))
