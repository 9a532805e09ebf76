"""`POST /v1/completions`: its fields, and its chunks and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from compat.openai.common import (
    MAX_CHOICES,
    MAX_PROMPTS,
    MAX_SEQUENCES,
    GenerationFields,
    Head,
    InvalidField,
    check_generation,
    check_logprobs,
    refuse,
)
from compat.openai.encoder import Choice, Delta, Encoder, Prompt, Shown, finish_members
from compat.openai.logprobs import TokenBytes, completion_logprobs, prompt_logprobs
from engine.types import TokenLogprobs

DEFAULT_MAX_TOKENS = 16


class CompletionRequest(GenerationFields, frozen=True, kw_only=True):
    """A prompt is a text or ids; several of either make one request."""

    prompt: str | list[str | int | list[int]]
    echo: bool | None = None
    logprobs: int | None = None
    suffix: Any = None

    @property
    def candidates(self) -> int:
        """How many outputs each prompt gets; `choices` of them are answered."""
        return self.choices if self.best_of is None else self.best_of

    @property
    def scores_alone(self) -> bool:
        """No output is wanted: the prompt itself is the answer."""
        return self.max_tokens == 0 and bool(self.echo or self.prompt_logprobs is not None)

    @property
    def echoed_logprobs(self) -> int | None:
        return self.logprobs if self.echo else None


def check(request: CompletionRequest) -> None:
    """Raises InvalidField."""
    check_generation(request)
    refuse(request, ("suffix",))
    check_logprobs(request.logprobs, "logprobs")
    if not request.choices <= request.candidates <= MAX_CHOICES:
        raise InvalidField(f"best_of must be between n and {MAX_CHOICES}.", "best_of")
    if request.stream and request.candidates > request.choices:
        raise InvalidField("best_of above n cannot be streamed.", "best_of")


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
    if len(found) > MAX_PROMPTS or len(found) * request.candidates > MAX_SEQUENCES:
        raise InvalidField(
            f"A request may have {MAX_PROMPTS} prompts, and {MAX_SEQUENCES} choices over all of them.",
            "prompt",
        )
    return found


class CompletionEncoder(Encoder):
    chunk_object = "text_completion"
    answer_object = "text_completion"

    def __init__(
        self,
        head: Head,
        prompts: Sequence[Prompt],
        n: int,
        shown: Shown,
        bytes_of: TokenBytes,
        keep: int | None = None,
    ) -> None:
        """`keep`: so many of a prompt's `n` choices are answered, the likeliest (None: all)."""
        super().__init__(head, prompts, n, shown, bytes_of)
        self._keep = n if keep is None else keep

    def _chosen(self) -> Sequence[Choice]:
        choices = super()._chosen()
        if self._keep == self._n:
            return choices
        kept: list[Choice] = []
        for start in range(0, len(choices), self._n):
            group = sorted(choices[start : start + self._n], key=lambda each: -each.likelihood)
            kept += group[: self._keep]
        for index, choice in enumerate(kept):
            choice.index = index
        return kept

    def _text_head(self, index: int) -> bytes:
        return self._chunk_head + b'"choices":[{"index":%d,"text":' % index

    def _text_end(self) -> bytes:
        return b',"logprobs":null,"finish_reason":null}]'

    def _chunk(self, choice: Choice, delta: Delta, first: bool) -> bytes:
        text = choice.prompt.echo + delta.text if first else delta.text
        parts = [self._text_heads[choice.index], orjson.dumps(text), b',"logprobs":']
        parts.append(self._logprobs(choice, delta.token_ids, delta.logprobs, first))
        if delta.finish_reason is None:
            parts.append(b',"finish_reason":null')
        else:
            parts += (b",", finish_members(delta.finish_reason, delta.stop_reason))
        if self._shown.token_ids:
            parts.append(_token_ids(choice.prompt.token_ids if first else None, delta.token_ids))
        if first:
            parts.append(self._prompt_logprobs(choice))
        parts += (b"}]", self._usage_member(), b"}")
        return b"".join(parts)

    def _whole(self, choice: Choice) -> bytes:
        text = choice.prompt.echo + "".join(choice.parts)
        ids = _token_ids(choice.prompt.token_ids, choice.token_ids) if self._shown.token_ids else b""
        return b'{"index":%d,"text":%b,"logprobs":%b,%b%b%b}' % (
            choice.index,
            orjson.dumps(text),
            self._logprobs(choice, choice.token_ids, choice.logprobs, True),
            finish_members(choice.finish_reason, choice.stop_reason),
            ids,
            self._prompt_logprobs(choice),
        )

    def _logprobs(
        self, choice: Choice, ids: Sequence[int], logprobs: Sequence[TokenLogprobs], first: bool
    ) -> bytes:
        if not self._shown.logprobs:
            return b"null"
        found: Sequence[TokenLogprobs | None] = logprobs
        if first and (top := self._shown.echo_logprobs) is not None:
            ids = [*choice.prompt.token_ids, *ids]
            scores = [TokenLogprobs(at.logprob, at.top[:top]) for at in choice.prompt_logprobs]
            found = [None, *scores, *logprobs]
        data, choice.text_offset = completion_logprobs(ids, found, self._bytes_of, choice.text_offset)
        return data

    def _prompt_logprobs(self, choice: Choice) -> bytes:
        """Streamed, only the first choice of a prompt knows them."""
        top, ids = self._shown.prompt_logprobs, choice.prompt.token_ids
        if top is None or len(choice.prompt_logprobs) != len(ids) - 1:
            return b""
        found = prompt_logprobs(ids, choice.prompt_logprobs, top, self._bytes_of)
        return b',"prompt_logprobs":' + found


def _token_ids(prompt_ids: Sequence[int] | None, ids: Sequence[int]) -> bytes:
    prompt = b"" if prompt_ids is None else b',"prompt_token_ids":' + orjson.dumps(list(prompt_ids))
    return prompt + b',"token_ids":' + orjson.dumps(list(ids))
