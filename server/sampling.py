"""What a client may ask of sampling, checked field by field and completed.

Responsible for: the range of every sampling field of both APIs, the caps that hold before anything is
allocated (reliability.md), and filling in what is absent: the model's generation config, else OpenAI's
default. Pure. What depends on a prompt (does it fit the context?) and `n` are left to the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from engine.types import SamplingParams
from parrot import wire
from server.errors import BadRequest
from server.generation import GenerationParams
from server.tokenizer import GenerationDefaults

MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 256  # of each
MAX_STOP_TOKEN_IDS = 256
MAX_LOGIT_BIAS = 1024
MAX_LOGPROBS = 20
MAX_TOKENS = 2**31 - 1  # an int32 in the engine
NO_DEFAULTS = GenerationDefaults()
_SEEDS = 2**63


@dataclass(frozen=True, slots=True)
class SamplingModel:
    """What the ranges and defaults depend on."""

    vocab_size: int
    eos_token_ids: tuple[int, ...] = ()
    defaults: GenerationDefaults = NO_DEFAULTS


def validate(
    fields: wire.Sampling,
    model: SamplingModel,
    *,
    max_tokens: int,
    draw_seed: Callable[[], int],
    logprobs: int | None = None,
    param: str = "",
) -> GenerationParams:
    """Complete parameters. `max_tokens` and `draw_seed` stand in for absent fields.

    Raises BadRequest whose `param` is `param` followed by the field's name.
    """
    check, defaults = _Check(param), model.defaults
    limit = check.whole("max_tokens", fields.max_tokens, max_tokens, 1, MAX_TOKENS)
    sampling = SamplingParams(
        max_tokens=limit,
        min_tokens=check.min_tokens(fields.min_tokens, limit),
        seed=draw_seed() if fields.seed is None else check.seed(fields.seed),
        temperature=check.number("temperature", fields.temperature, defaults.temperature, 1.0, 0, 2),
        top_p=check.number("top_p", fields.top_p, defaults.top_p, 1.0, 0, 1, above=True),
        top_k=check.top_k(fields.top_k, defaults.top_k),
        min_p=check.number("min_p", fields.min_p, defaults.min_p, 0.0, 0, 1),
        presence_penalty=check.number("presence_penalty", fields.presence_penalty, None, 0.0, -2, 2),
        frequency_penalty=check.number("frequency_penalty", fields.frequency_penalty, None, 0.0, -2, 2),
        repetition_penalty=check.number(
            "repetition_penalty",
            fields.repetition_penalty,
            defaults.repetition_penalty,
            1.0,
            0,
            10,
            above=True,
        ),
        logit_bias=check.logit_bias(fields.logit_bias, model.vocab_size),
        logprobs=check.logprobs(logprobs),
        stop_token_ids=check.stop_token_ids(fields.stop_token_ids, model.vocab_size),
        ignore_eos=bool(fields.ignore_eos),
        eos_token_ids=model.eos_token_ids,
    )
    return GenerationParams(
        sampling=sampling,
        stop=check.stop(fields.stop),
        include_stop=bool(fields.include_stop_str_in_output),
        skip_special_tokens=fields.skip_special_tokens is not False,
    )


@dataclass(frozen=True, slots=True)
class _Check:
    """One check for each kind of field; all raise BadRequest."""

    param: str

    def refuse(self, name: str, message: str) -> BadRequest:
        return BadRequest(f"{name} {message}.", param=self.param + name)

    def whole(self, name: str, value: int | None, default: int, low: int, high: int) -> int:
        if value is None:
            return default
        if not low <= value <= high:
            raise self.refuse(name, f"must be between {low} and {high}")
        return value

    def number(
        self,
        name: str,
        value: float | None,
        of_model: float | None,
        default: float,
        low: float,
        high: float,
        *,
        above: bool = False,
    ) -> float:
        """Between the bounds (NaN is not); `above`: not at the lower one. A model's own value is trusted."""
        if value is None:
            return default if of_model is None else float(of_model)
        if not low <= value <= high or (above and value == low):
            bounds = f"above {low} and at most {high}" if above else f"between {low} and {high}"
            raise self.refuse(name, f"must be a number {bounds}")
        return float(value)

    def min_tokens(self, value: int | None, max_tokens: int) -> int:
        if value is not None and not 0 <= value <= max_tokens:
            raise self.refuse("min_tokens", f"must be between 0 and max_tokens ({max_tokens})")
        return value or 0

    def seed(self, value: int) -> int:
        """Any int64 is a seed; negative ones are mapped, because the engine's are not negative."""
        if not -_SEEDS <= value < _SEEDS:
            raise self.refuse("seed", "must fit 64 bits with a sign")
        return value & (_SEEDS - 1)

    def top_k(self, value: int | None, of_model: int | None) -> int:
        if value is None:
            return max(of_model or 0, 0)
        if not -1 <= value <= MAX_TOKENS:
            raise self.refuse("top_k", "must be a positive number, or 0 or -1 for none")
        return max(value, 0)

    def logprobs(self, value: int | None) -> int | None:
        if value is not None and not 0 <= value <= MAX_LOGPROBS:
            raise self.refuse("logprobs", f"must be between 0 and {MAX_LOGPROBS}")
        return value

    def logit_bias(self, biases: dict[str, float] | None, vocab_size: int) -> dict[int, float]:
        if not biases:
            return {}
        if len(biases) > MAX_LOGIT_BIAS:
            raise self.refuse("logit_bias", f"may have at most {MAX_LOGIT_BIAS} entries")
        return {self._token(key, vocab_size): self._bias(value) for key, value in biases.items()}

    def _token(self, key: str, vocab_size: int) -> int:
        if not (key.isascii() and key.isdigit() and len(key) < 11 and int(key) < vocab_size):
            raise self.refuse(
                "logit_bias", f"has the key {key[:20]!r}, but token ids are 0 to {vocab_size - 1}"
            )
        return int(key)

    def _bias(self, value: float) -> float:
        if not math.fabs(value) <= 100:
            raise self.refuse("logit_bias", "may have values between -100 and 100")
        return float(value)

    def stop_token_ids(self, ids: list[int] | None, vocab_size: int) -> tuple[int, ...]:
        if not ids:
            return ()
        if len(ids) > MAX_STOP_TOKEN_IDS:
            raise self.refuse("stop_token_ids", f"may have at most {MAX_STOP_TOKEN_IDS} entries")
        if not all(0 <= id < vocab_size for id in ids):
            raise self.refuse("stop_token_ids", f"may have ids between 0 and {vocab_size - 1}")
        return tuple(ids)

    def stop(self, stop: str | list[str] | None) -> tuple[str, ...]:
        strings = (stop,) if isinstance(stop, str) else tuple(stop or ())
        if len(strings) > MAX_STOP_STRINGS:
            raise self.refuse("stop", f"may have at most {MAX_STOP_STRINGS} strings")
        if not all(0 < len(string) <= MAX_STOP_CHARACTERS for string in strings):
            raise self.refuse("stop", f"strings must have between 1 and {MAX_STOP_CHARACTERS} characters")
        return strings
