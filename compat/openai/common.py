"""What OpenAI's generation endpoints have in common: fields, their refusal, usage, and the head of an answer.

Responsible for: names and types as clients send them (null is absent), and for refusing by name what is known
to OpenAI's or vLLM's users but not supported here. The range of a sampling field is the server's to check.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from compat.openai import structured
from compat.openai.errors import InvalidField as InvalidField

MAX_CHOICES = 64  # of one prompt
MAX_PROMPTS = 256
MAX_SEQUENCES = 256  # prompts times choices
MAX_LOGPROBS = 20


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


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
    request_id: str | None = None
    best_of: int | None = None

    use_beam_search: Any = None
    prompt_logprobs: Any = None
    response_format: Any = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    guided_decoding_backend: Any = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None
    logits_processors: Any = None
    truncate_prompt_tokens: Any = None
    prompt_embeds: Any = None

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


_REFUSED = (
    "use_beam_search",
    "prompt_logprobs",
    "guided_decoding_backend",
    "logits_processors",
    "truncate_prompt_tokens",
    "prompt_embeds",
)

_HARMLESS: dict[str, tuple[object, ...]] = {
    "use_beam_search": (False,),
    "guided_decoding_backend": ("auto", "guidance"),
    "logits_processors": ([],),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "documents": ([],),
    "suffix": ("",),
}
"""Values of refused fields that ask for nothing; SDKs send some of them on their own."""

_SERVICE_TIERS = ("auto", "default", "flex", "priority")


def refuse(request: msgspec.Struct, fields: Iterable[str], at: str = "") -> None:
    """Raises InvalidField for the first of `fields` that asks for something."""
    for name in fields:
        value = getattr(request, name)
        if value is not None and value not in _HARMLESS.get(name, ()):
            raise InvalidField(f"{name} is not supported by this server.", at + name, "unsupported_field")


def check_generation(request: GenerationFields) -> None:
    """What both endpoints refuse, and the caps that hold before anything is allocated."""
    refuse(request, _REFUSED)
    structured.constraint(request)
    if not 1 <= request.choices <= MAX_CHOICES:
        raise InvalidField(f"n must be between 1 and {MAX_CHOICES}.", "n")
    if request.best_of is not None and request.best_of != request.choices:
        raise InvalidField(
            "best_of other than n is not supported by this server.", "best_of", "unsupported_field"
        )
    if request.stream_options is not None and not request.stream:
        raise InvalidField("stream_options is only allowed when stream is true.", "stream_options")
    if request.service_tier is not None and request.service_tier not in _SERVICE_TIERS:
        raise InvalidField(f"service_tier must be one of {', '.join(_SERVICE_TIERS)}.", "service_tier")
    if request.cache_salt is not None and not 1 <= len(request.cache_salt) <= 256:
        raise InvalidField("cache_salt must have between 1 and 256 characters.", "cache_salt")


def check_logprobs(count: int | None, param: str) -> None:
    if count is not None and not 0 <= count <= MAX_LOGPROBS:
        raise InvalidField(f"{param} must be between 0 and {MAX_LOGPROBS}.", param)


@dataclass(slots=True)
class Usage:
    """Tokens of one request. A prompt counts once, however many choices continue it."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0

    def json(self) -> bytes:
        return orjson.dumps(
            {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens,
                "total_tokens": self.prompt_tokens + self.completion_tokens,
                "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            }
        )


@dataclass(frozen=True, slots=True)
class Head:
    """The members that every chunk and answer of one request begins with. `created` is in unix seconds."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    def json(self, object: str) -> bytes:
        """`{"id": ..., ..., ` without its end, to be spliced in front of the members that differ."""
        members = {
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
        }
        return orjson.dumps(members)[:-1] + b","
