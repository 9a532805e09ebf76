"""Fields that OpenAI's or vLLM's users know and this server does not support: refused by name when they ask.

Responsible for: which they are, and which of their values ask for nothing (SDKs send some of those on their own).
A field that nobody knows is not here: it is ignored, because clients add their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from compat.openai.errors import InvalidField

GENERATION = (
    "use_beam_search",
    "length_penalty",
    "early_stopping",
    "guided_decoding_backend",
    "guided_whitespace_pattern",
    "logits_processors",
    "truncate_prompt_tokens",
    "prompt_embeds",
    "spaces_between_special_tokens",
    "return_tokens_as_token_ids",
    "kv_transfer_params",
    "vllm_xargs",
)
"""Of both generation endpoints."""

CHAT = (
    "functions",
    "function_call",
    "modalities",
    "audio",
    "chat_template",
    "documents",
    "prediction",
    "web_search_options",
    "moderation",
    "prompt_cache_options",
    "prompt_cache_retention",
    "verbosity",
    "echo",
    "mm_processor_kwargs",
    "media_io_kwargs",
    "thinking_token_budget",
)

HARMLESS: Mapping[str, tuple[object, ...]] = {
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "early_stopping": (False,),
    "guided_decoding_backend": ("auto", "guidance"),
    "logits_processors": ([],),
    "spaces_between_special_tokens": (True,),
    "return_tokens_as_token_ids": (False,),
    "kv_transfer_params": ({},),
    "vllm_xargs": ({},),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "documents": ([],),
    "suffix": ("",),
    "echo": (False,),
    "mm_processor_kwargs": ({},),
    "media_io_kwargs": ({},),
    "verbosity": ("medium",),
    "include_obfuscation": (False,),
    "prompt_cache_retention": ("in_memory",),
    "prompt_cache_options": ({}, {"mode": "implicit"}),
}


def refuse(request: msgspec.Struct, fields: Iterable[str], at: str = "") -> None:
    """Raises InvalidField for the first of `fields` that asks for something."""
    for name in fields:
        if asks(getattr(request, name), HARMLESS.get(name, ())):
            raise InvalidField(f"{name} is not supported by this server.", at + name, "unsupported_field")


def asks(value: object, harmless: Iterable[object]) -> bool:
    """Whether a field's value asks for something: it is there, and none of those that do not."""
    return value is not None and not any(_same(value, none) for none in harmless)


def _same(value: object, harmless: object) -> bool:
    """0 is no False, and 1 no True."""
    return value == harmless and isinstance(value, bool) == isinstance(harmless, bool)
