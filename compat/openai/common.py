"""What OpenAI's generation endpoints have in common: fields, their refusal, usage, and the head of an answer.

Responsible for: names and types as clients send them (null is absent), and the caps that hold before anything is
allocated. What is refused is `refusal`'s, the range of a sampling field the server's to check.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from compat.openai import refusal, structured
from compat.openai.errors import InvalidField as InvalidField
from compat.openai.hints import Nvext, hints
from compat.openai.refusal import refuse as refuse

MAX_CHOICES = 64  # of one prompt
MAX_PROMPTS = 256
MAX_SEQUENCES = 256  # prompts times choices
MAX_LOGPROBS = 20


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: Any = None


class GenerationFields(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of both endpoints. `Any` marks those that are only there to be refused by name."""

    model: str | None = None
    n: int | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    service_tier: str | None = None
    priority: int | None = None
    cache_salt: str | None = None
    session_id: str | None = None
    program_id: str | None = None
    nvext: Nvext | None = None
    request_id: str | None = None
    user: str | None = None  # who is behind the client: for its own use
    best_of: int | None = None

    prompt_logprobs: int | None = None
    response_format: Any = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None

    use_beam_search: Any = None
    length_penalty: Any = None
    early_stopping: Any = None
    guided_decoding_backend: Any = None
    guided_whitespace_pattern: Any = None
    logits_processors: Any = None
    truncate_prompt_tokens: Any = None
    prompt_embeds: Any = None
    spaces_between_special_tokens: Any = None
    return_tokens_as_token_ids: Any = None
    kv_transfer_params: Any = None
    vllm_xargs: Any = None

    @property
    def choices(self) -> int:
        return 1 if self.n is None else self.n

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        return (
            self.include_usage
            and self.stream_options is not None
            and bool(self.stream_options.continuous_usage_stats)
        )


def check_generation(request: GenerationFields) -> None:
    """What both endpoints refuse, and the caps that hold before anything is allocated."""
    refuse(request, refusal.GENERATION)
    structured.constraint(request)
    hints(request)
    if not 1 <= request.choices <= MAX_CHOICES:
        raise InvalidField(f"n must be between 1 and {MAX_CHOICES}.", "n")
    check_logprobs(request.prompt_logprobs, "prompt_logprobs")
    if request.stream_options is not None:
        if not request.stream:
            raise InvalidField("stream_options is only allowed when stream is true.", "stream_options")
        refuse(request.stream_options, ("include_obfuscation",), "stream_options.")


def check_logprobs(count: int | None, param: str) -> None:
    if count is not None and not 0 <= count <= MAX_LOGPROBS:
        raise InvalidField(f"{param} must be between 0 and {MAX_LOGPROBS}.", param)


@dataclass(slots=True)
class Usage:
    """Tokens of one request. A prompt counts once, however many choices continue it."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int | None = None  # None: of a model that does not think

    def json(self) -> bytes:
        members: dict[str, object] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
        if self.reasoning_tokens is not None:
            members["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        return orjson.dumps(members)


@dataclass(frozen=True, slots=True)
class Head:
    """The members that every chunk and answer of one request begins with. `created` is in unix seconds."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    service_tier: str | None = None

    def json(self, object: str) -> bytes:
        """`{"id": ..., ..., ` without its end, to be spliced in front of the members that differ."""
        members: dict[str, str | int] = {
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
        }
        if self.service_tier is not None:
            members["service_tier"] = self.service_tier
        return orjson.dumps(members)[:-1] + b","
