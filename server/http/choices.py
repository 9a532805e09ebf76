"""One set of parameters for each choice of a prompt.

Responsible for: how long an output may be, what is asked for of each choice, and their seeds. The range of a
sampling field is `server.sampling`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from compat.openai.common import GenerationFields
from compat.openai.encoder import Prompt
from parrot import wire
from server import sampling, structured
from server.errors import BadRequest
from server.generation import GenerationParams
from server.model_card import ModelCard
from server.restrictions import restricted
from server.service import Service


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for beside its sampling fields.

    `param`: the field of the prompt. `limit` of the output, None: what the prompt leaves of the context.
    `logprobs` of outputs and `prompt_logprobs`: how many alternatives, None: no log-probabilities. `choices` of a
    prompt, of which all or only the first tell of the prompt (`every_prompt`).
    """

    param: str
    limit: int | None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    choices: int = 1
    every_prompt: bool = False
    grammar: str | None = None


def params(
    service: Service, card: ModelCard, body: GenerationFields, prompt: Prompt, asked: Asked
) -> list[GenerationParams]:
    """One for each choice of a prompt: the same but for the seed, of which choice 0 has the client's own.

    Raises BadRequest.
    """
    first = sampling.validate(
        _sampling(body, asked.limit),
        service.sampling_model,
        max_tokens=room(card, prompt, asked.limit, asked.param),
        draw_seed=service.draw_seed,
        logprobs=asked.logprobs,
    )
    first = structured.constrained(first, asked.grammar)
    first = restricted(first, service.tokenizer, body.allowed_token_ids, body.bad_words)
    return [_of_choice(first, index, asked) for index in range(asked.choices)]


def room(card: ModelCard, prompt: Prompt, limit: int | None, param: str) -> int:
    """How many tokens an output may have: what was asked for, else what the prompt leaves of the context."""
    length = len(prompt.token_ids)
    if not length:
        raise BadRequest("The prompt has no tokens.", param=param)
    wanted = 1 if limit is None else limit
    if length + wanted <= card.max_model_len:
        return card.max_model_len - length if limit is None else limit
    raise BadRequest(
        f"This model's maximum context length is {card.max_model_len} tokens. However, you requested "
        f"{length + wanted} tokens ({length} in the {param}, {wanted} in the completion). Please reduce the "
        f"length of the {param} or completion.",
        param=param if length >= card.max_model_len or limit is None else "max_tokens",
        code="context_length_exceeded",
    )


def _sampling(body: GenerationFields, max_tokens: int | None) -> wire.Sampling:
    """The fields that OpenAI's and our own API share; the names are the same."""
    shared = {name: getattr(body, name) for name in _SHARED}
    return wire.Sampling(max_tokens=max_tokens, **shared)


_SHARED = tuple(
    sorted({*wire.Sampling.__struct_fields__} & {*GenerationFields.__struct_fields__} - {"n", "max_tokens"})
)


def _of_choice(params: GenerationParams, index: int, asked: Asked) -> GenerationParams:
    seed = (params.sampling.seed + index) % 2**63
    scores = asked.prompt_logprobs if not index or asked.every_prompt else None
    return replace(
        params, sampling=msgspec.structs.replace(params.sampling, seed=seed, prompt_logprobs=scores)
    )
