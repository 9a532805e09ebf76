"""What an OpenAI request means in the server's own terms.

Responsible for: prompts as ids, what is bound to a format, tenant, objective and ids. Shapes are `compat.openai`'s,
the parameters of each choice `server.http.choices`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from compat.openai import chat, completions, hints, reasoning
from compat.openai import structured as formats
from compat.openai.chat import ChatEncoder, ChatRequest, Message
from compat.openai.common import GenerationFields, Head, InvalidField
from compat.openai.completions import CompletionEncoder, CompletionRequest
from compat.openai.encoder import Encoder, Prompt, Shown
from compat.openai.hints import NO_HINTS, Hints
from compat.openai.reasoning import Thinking
from compat.openai.tools import request as tools
from compat.openai.tools.encoder import ToolChatEncoder
from compat.openai.tools.parsers import Parser, Plain
from engine.types import Objective, Urgency
from server import structured
from server.chat_template import ChatMessage
from server.errors import BadRequest
from server.generation import GenerationParams
from server.http import choices
from server.http.body_values import check_values
from server.http.choices import Asked
from server.model_card import ModelCard
from server.scheduler.entry import PATIENCE_S
from server.service import Service
from server.tenant import Tenant
from server.tokenizer import Tokenizer
from server.version import VERSION

_FINGERPRINT = f"parrot-{VERSION}"

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Job(Generic[E]):
    """One request, ready to run: choice `i` continues prompt `i // n`, with `params[i]`. `encoder` writes its
    answer."""

    id: str
    tenant: Tenant
    objective: Objective
    prompts: Sequence[Prompt]
    params: Sequence[GenerationParams]
    encoder: E
    stream: bool
    hints: Hints = NO_HINTS

    def prompt_of(self, index: int) -> Prompt:
        return self.prompts[index * len(self.prompts) // len(self.params)]


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat that is ready to run, before anything is said about how its answer looks. `parser` makes one for each
    output; None: whatever comes is text. `thinking` None: and so is what may be thoughts."""

    card: ModelCard
    prompt: Prompt
    params: Sequence[GenerationParams]
    parser: Callable[[], Parser] | None
    thinking: Thinking | None = None


async def completion_job(service: Service, tenant: Tenant, id: str, body: CompletionRequest) -> Job[Encoder]:
    """Raises ApiError."""
    with invalid_fields():
        completions.check(body)
        given = completions.prompts(body)
    card = service.resolve_model(body.model)
    prompts = [await _prompt(service, card, body, prompt) for prompt in given]
    grammar = await grammar_of(body)
    asked = _asked(body, grammar)
    params = [params for prompt in prompts for params in choices.params(service, card, body, prompt, asked)]
    shown = replace(
        shown_of(body, logprobs=body.logprobs is not None),
        echo_logprobs=body.echoed_logprobs,
        output=not body.scores_alone,
    )
    bytes_of = service.tokenizer.token_bytes
    head = head_of(f"cmpl-{id}", body, card)
    encoder = CompletionEncoder(head, prompts, body.candidates, shown, bytes_of, keep=body.choices)
    return job_of(id, tenant, body, prompts, params, encoder)


def _asked(body: CompletionRequest, grammar: str | None) -> Asked:
    limit = completions.DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    logprobs, echoed = body.logprobs, body.echoed_logprobs
    if logprobs is None and body.candidates > body.choices:
        logprobs = 0  # to choose by
    scores = [count for count in (body.prompt_logprobs, echoed) if count is not None]
    return Asked(
        param="prompt",
        limit=1 if body.scores_alone else limit,
        logprobs=logprobs,
        prompt_logprobs=max(scores, default=None),
        choices=body.candidates,
        every_prompt=bool(body.stream) and echoed is not None,
        grammar=grammar,
    )


async def chat_job(service: Service, tenant: Tenant, id: str, body: ChatRequest) -> Job[Encoder]:
    """Raises ApiError."""
    ready = await prepared(service, body)
    shown = shown_of(body, logprobs=bool(body.logprobs))
    head, bytes_of = head_of(f"chatcmpl-{id}", body, ready.card), service.tokenizer.token_bytes
    encoder: Encoder
    if ready.parser is None and ready.thinking is None:
        encoder = ChatEncoder(head, [ready.prompt], body.choices, shown, bytes_of)
    else:
        parser, most = ready.parser or Plain, tools.most(body)
        encoder = ToolChatEncoder(
            head, [ready.prompt], body.choices, shown, bytes_of, parser, most, ready.thinking
        )
    return job_of(id, tenant, body, [ready.prompt], ready.params, encoder)


async def prepared(service: Service, body: ChatRequest) -> Chat:
    """A conversation of any wire format, once it is in the terms of chat completions. Raises ApiError."""
    with invalid_fields():
        chat.check(body)
    card = service.resolve_model(body.model)
    demanded = await _demanded(body)
    grammar = demanded or await grammar_of(body)
    text, thinking = _begun(service, body, formatted=grammar is not None)
    prompt = Prompt(await encode(service, card, text, bool(body.add_special_tokens), "messages"))
    top = (body.top_logprobs or 0) if body.logprobs else None
    asked = Asked("messages", body.output_limit, top, body.prompt_logprobs, body.choices, grammar=grammar)
    params = choices.params(service, card, body, prompt, asked)
    parser = tools.parser(body, service.tokenizer.chat_template_source, service.config.tool_call_parser)
    marked = (parser is not None and demanded is None) or thinking is not None
    if marked and body.skip_special_tokens is None:  # a family's marks may be special
        params = [replace(each, skip_special_tokens=False) for each in params]
    return Chat(card, prompt, params, parser, thinking)


async def chat_prompt(service: Service, card: ModelCard, body: ChatRequest) -> Prompt:
    """That of `prepared`. Raises ApiError."""
    with invalid_fields():
        chat.check(body)
        formatted = tools.demanded(body) is not None or formats.constraint(body) is not None
    text, _ = _begun(service, body, formatted)
    return Prompt(await encode(service, card, text, bool(body.add_special_tokens), "messages"))


def _begun(service: Service, body: ChatRequest, formatted: bool) -> tuple[str, Thinking | None]:
    """The prompt's text, and how outputs think: what is bound to a format has no room for a thought."""
    text = chat_text(service, body)
    thinking = _thinking(service, body, text)
    if thinking is None or not formatted:
        return text, thinking
    return text + (reasoning.CLOSED if thinking.opened else ""), None


def chat_text(service: Service, body: ChatRequest) -> str:
    """Raises BadRequest."""
    effort = reasoning.template_arguments(body.reasoning_effort, service.tokenizer.chat_template_source)
    if effort is None:
        raise BadRequest(
            "This model's chat template knows no reasoning_effort.",
            param="reasoning_effort",
            code="unsupported_field",
        )
    return service.tokenizer.render_chat(
        chat_messages(body.messages),
        add_generation_prompt=default(body.add_generation_prompt, not body.continue_final_message),
        continue_final_message=bool(body.continue_final_message),
        template_kwargs={**effort, **(body.chat_template_kwargs or {})},
        tools=tools.shown(body),
    )


def _thinking(service: Service, body: ChatRequest, prompt: str) -> Thinking | None:
    """None: what an output has of thoughts is a part of its text."""
    template = service.tokenizer.chat_template_source
    if not reasoning.enabled(service.config.reasoning_parser, template):
        return None
    continued = chat.text_of(body.messages[-1]) if body.continue_final_message else None
    return Thinking(reasoning.opened(prompt, continued), shown=body.include_reasoning is not False)


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
    """Raises BadRequest, TooLarge."""
    with invalid_fields():
        chat.check_messages(messages)
    check_values(chat.arguments(messages).encode(), "messages")
    return [
        ChatMessage(
            message.role,
            chat.text_of(message),
            message.name,
            tuple(tools.as_template_value(call) for call in message.tool_calls or ()),
            message.tool_call_id,
            message.reasoning_content or message.reasoning,
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


def objective(hints: Hints) -> Objective:
    """A request is latency-sensitive unless it is said to be patient. A priority is an earlier place among those
    who are alike, by as much as somebody who wants it within that time: bounded, so that nobody waits for ever."""
    if hints.priority > 0:
        within_ms = PATIENCE_S * 1000 * hints.priority / (hints.priority + 1)
        return Objective(Urgency.THROUGHPUT, within_ms=within_ms)
    within = PATIENCE_S * 1000 * 2.0 ** max(hints.priority, -16) if hints.priority else None
    return Objective(Urgency.THROUGHPUT if hints.patient else Urgency.LATENCY, within_ms=within)


@contextmanager
def invalid_fields() -> Iterator[None]:
    """`compat` has an error of its own, because it knows nothing of the server."""
    try:
        yield
    except InvalidField as error:
        raise BadRequest(str(error), param=error.param, code=error.code) from error


def job_of(
    id: str,
    tenant: Tenant,
    body: GenerationFields,
    prompts: Sequence[Prompt],
    params: Sequence[GenerationParams],
    encoder: E,
) -> Job[E]:
    """Under the request's own name `id`, with the hints of `body`."""
    with invalid_fields():
        told = hints.hints(body)
    owner = tenant if told.cache_salt is None else tenant.salted(told.cache_salt)
    return Job(id, owner, objective(told), prompts, params, encoder, bool(body.stream), told)


def head_of(id: str, body: GenerationFields, card: ModelCard) -> Head:
    return Head(
        id, int(time.time()), body.model or card.served_names[0], _FINGERPRINT, hints.served_tier(body)
    )


def shown_of(body: GenerationFields, *, logprobs: bool) -> Shown:
    return Shown(
        logprobs,
        bool(body.return_token_ids),
        body.include_usage,
        body.continuous_usage,
        prompt_logprobs=body.prompt_logprobs,
    )


async def _prompt(
    service: Service, card: ModelCard, body: CompletionRequest, given: str | list[int]
) -> Prompt:
    if isinstance(given, str):
        ids = await encode(service, card, given, default(body.add_special_tokens, True), "prompt")
        return Prompt(ids, echo=given if body.echo else "")
    check_ids(service.tokenizer, given, card.max_model_len, "prompt")
    return Prompt(given, echo=service.tokenizer.decode(given) if body.echo else "")
