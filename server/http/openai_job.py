"""What an OpenAI request means in the server's own terms.

Responsible for: prompts as ids, one set of parameters for each choice, tenant, objective and ids; and for
refusing what cannot fit the model's context. Shapes are `compat.openai`'s, the range of a sampling field
`server.sampling`'s.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import msgspec

from compat.openai import chat, completions
from compat.openai import structured as formats
from compat.openai.chat import ChatEncoder, ChatRequest, Message
from compat.openai.common import GenerationFields, Head, InvalidField
from compat.openai.completions import CompletionEncoder, CompletionRequest
from compat.openai.encoder import Encoder, Prompt, Shown
from compat.openai.tools import request as tools
from compat.openai.tools.encoder import ToolChatEncoder
from engine.types import Objective, Urgency
from parrot import wire
from server import sampling, structured
from server.chat_template import ChatMessage
from server.errors import BadRequest
from server.generation import GenerationParams
from server.model_card import ModelCard
from server.restrictions import restricted
from server.service import Service
from server.tenant import Tenant
from server.tokenizer import Tokenizer
from server.version import VERSION

_FINGERPRINT = f"parrot-{VERSION}"


@dataclass(frozen=True, slots=True)
class Job:
    """One request, ready to run: choice `i` continues prompt `i // n`, with `params[i]`."""

    id: str
    tenant: Tenant
    objective: Objective
    prompts: Sequence[Prompt]
    params: Sequence[GenerationParams]
    encoder: Encoder
    stream: bool

    def prompt_of(self, index: int) -> Prompt:
        return self.prompts[index * len(self.prompts) // len(self.params)]


async def completion_job(service: Service, tenant: Tenant, id: str, body: CompletionRequest) -> Job:
    """Raises ApiError."""
    with invalid_fields():
        completions.check(body)
        given = completions.prompts(body)
    card = service.resolve_model(body.model)
    prompts = [await _prompt(service, card, body, prompt) for prompt in given]
    grammar = await grammar_of(body)
    limit = completions.DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    params = [
        params
        for prompt in prompts
        for params in _params(service, card, body, prompt, limit, body.logprobs, "prompt", grammar)
    ]
    shown = _shown(body, logprobs=body.logprobs is not None)
    bytes_of = service.tokenizer.token_bytes
    encoder = CompletionEncoder(_head(f"cmpl-{id}", body, card), prompts, body.choices, shown, bytes_of)
    return _job(id, tenant, body, prompts, params, encoder)


async def chat_job(service: Service, tenant: Tenant, id: str, body: ChatRequest) -> Job:
    """Raises ApiError."""
    with invalid_fields():
        chat.check(body)
    card = service.resolve_model(body.model)
    text = service.tokenizer.render_chat(
        chat_messages(body.messages),
        add_generation_prompt=default(body.add_generation_prompt, not body.continue_final_message),
        continue_final_message=bool(body.continue_final_message),
        template_kwargs=body.chat_template_kwargs,
        tools=tools.shown(body),
    )
    prompt = Prompt(await encode(service, card, text, bool(body.add_special_tokens), "messages"))
    top = (body.top_logprobs or 0) if body.logprobs else None
    demanded = await _demanded(body)
    grammar = demanded or await grammar_of(body)
    params = _params(service, card, body, prompt, body.output_limit, top, "messages", grammar)
    shown = _shown(body, logprobs=bool(body.logprobs))
    head, bytes_of = _head(f"chatcmpl-{id}", body, card), service.tokenizer.token_bytes
    encoder: Encoder
    if (parser := tools.parser(body, service.tokenizer.chat_template_source)) is None:
        encoder = ChatEncoder(head, [prompt], body.choices, shown, bytes_of)
    else:
        most = 1 if body.parallel_tool_calls is False else None
        encoder = ToolChatEncoder(head, [prompt], body.choices, shown, bytes_of, parser, most)
        if body.skip_special_tokens is None and demanded is None:  # a family's marks may be special tokens
            params = [replace(each, skip_special_tokens=False) for each in params]
    return _job(id, tenant, body, [prompt], params, encoder)


async def _demanded(body: ChatRequest) -> str | None:
    """The grammar of the calls that the output must be. Raises BadRequest, TooLarge."""
    with invalid_fields():
        constraint = tools.demanded(body)
        if constraint is not None and formats.constraint(body) is not None:
            raise InvalidField("A demanded tool call has a format of its own.", "tool_choice")
    return None if constraint is None else await structured.grammar(constraint)


def default(value: bool | None, absent: bool) -> bool:
    return absent if value is None else value


def chat_messages(messages: Sequence[Message]) -> list[ChatMessage]:
    """Raises BadRequest."""
    with invalid_fields():
        chat.check_messages(messages)
    return [
        ChatMessage(
            message.role,
            chat.text_of(message),
            message.name,
            tuple(tools.as_template_value(call) for call in message.tool_calls or ()),
            message.tool_call_id,
        )
        for message in messages
    ]


def check_ids(tokenizer: Tokenizer, ids: Sequence[int], limit: int, param: str) -> None:
    """Raises BadRequest. The number of ids first: it bounds the work of all that follows."""
    if len(ids) > limit:
        raise BadRequest(
            f"{len(ids)} tokens are more than this model's context of {limit}.",
            param=param,
            code="context_length_exceeded",
        )
    if not all(0 <= id < tokenizer.vocab_size for id in ids):
        raise BadRequest(f"Token ids must be between 0 and {tokenizer.vocab_size - 1}.", param=param)


async def encode(
    service: Service, card: ModelCard, text: str, add_special_tokens: bool, param: str
) -> list[int]:
    """The ids of a prompt. A text that cannot fit the context, whatever it says, is refused unread."""
    limit = card.max_model_len * service.tokenizer.longest_token
    if len(text) > limit:
        raise BadRequest(
            f"This model's maximum context length is {card.max_model_len} tokens. "
            f"However, the {param} has {len(text)} characters.",
            param=param,
            code="context_length_exceeded",
        )
    return await service.tokenize(text, add_special_tokens)


async def grammar_of(body: GenerationFields) -> str | None:
    """What the request's structured output has to match. Raises BadRequest, TooLarge."""
    with invalid_fields():
        constraint = formats.constraint(body)
    return None if constraint is None else await structured.grammar(constraint)


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


def objective(body: GenerationFields) -> Objective:
    """`flex`, or a `priority` behind vLLM's default of 0 (smaller goes first), gives way to others."""
    patient = body.service_tier == "flex" or (body.priority or 0) > 0
    return Objective(Urgency.THROUGHPUT if patient else Urgency.LATENCY)


@contextmanager
def invalid_fields() -> Iterator[None]:
    """`compat` has an error of its own, because it knows nothing of the server."""
    try:
        yield
    except InvalidField as error:
        raise BadRequest(str(error), param=error.param, code=error.code) from error


def _job(
    id: str,
    tenant: Tenant,
    body: GenerationFields,
    prompts: Sequence[Prompt],
    params: Sequence[GenerationParams],
    encoder: Encoder,
) -> Job:
    owner = tenant if body.cache_salt is None else tenant.salted(body.cache_salt)
    return Job(id, owner, objective(body), prompts, params, encoder, bool(body.stream))


def _head(id: str, body: GenerationFields, card: ModelCard) -> Head:
    return Head(id, int(time.time()), body.model or card.served_names[0], _FINGERPRINT)


def _shown(body: GenerationFields, *, logprobs: bool) -> Shown:
    return Shown(logprobs, bool(body.return_token_ids), body.include_usage, body.continuous_usage)


async def _prompt(
    service: Service, card: ModelCard, body: CompletionRequest, given: str | list[int]
) -> Prompt:
    if isinstance(given, str):
        ids = await encode(service, card, given, default(body.add_special_tokens, True), "prompt")
        return Prompt(ids, echo=given if body.echo else "")
    check_ids(service.tokenizer, given, card.max_model_len, "prompt")
    return Prompt(given, echo=service.tokenizer.decode(given) if body.echo else "")


def _params(
    service: Service,
    card: ModelCard,
    body: GenerationFields,
    prompt: Prompt,
    limit: int | None,
    logprobs: int | None,
    param: str,
    grammar: str | None,
) -> list[GenerationParams]:
    """One for each choice of a prompt: the same but for the seed, of which choice 0 has the client's own."""
    first = sampling.validate(
        _sampling(body, limit),
        service.sampling_model,
        max_tokens=room(card, prompt, limit, param),
        draw_seed=service.draw_seed,
        logprobs=logprobs,
    )
    first = structured.constrained(first, grammar)
    first = restricted(first, service.tokenizer, body.allowed_token_ids, body.bad_words)
    return [_reseeded(first, index) for index in range(body.choices)]


def _sampling(body: GenerationFields, max_tokens: int | None) -> wire.Sampling:
    """The fields that OpenAI's and our own API share; the names are the same."""
    shared = {name: getattr(body, name) for name in _SHARED}
    return wire.Sampling(max_tokens=max_tokens, **shared)


_SHARED = tuple(
    sorted({*wire.Sampling.__struct_fields__} & {*GenerationFields.__struct_fields__} - {"n", "max_tokens"})
)


def _reseeded(params: GenerationParams, index: int) -> GenerationParams:
    seed = (params.sampling.seed + index) % 2**63
    return replace(params, sampling=msgspec.structs.replace(params.sampling, seed=seed))
