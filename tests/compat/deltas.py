"""What a server would feed an encoder with: a vocabulary of three tokens, and steps over it."""

from __future__ import annotations

from dataclasses import dataclass

from compat.openai.common import Head
from engine.types import TokenLogprobs, TopLogprob

HEAD = Head(id="x-1", created=1700000000, model="org/model", system_fingerprint="fp_1")
VOCABULARY = {1: b"Hello", 2: b" \xe4\xbd", 3: b'"quoted"\n'}


def bytes_of(id: int) -> bytes:
    return VOCABULARY.get(id, b"")


@dataclass(frozen=True, slots=True)
class Step:
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    cached_tokens: int = 0
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


def likely(*logprobs: float) -> tuple[TokenLogprobs, ...]:
    """Logprobs of as many tokens, with two alternatives each."""
    top = (TopLogprob(1, -0.25), TopLogprob(2, -1.5))
    return tuple(TokenLogprobs(logprob, top) for logprob in logprobs)


STEPS = (
    Step("Hello", (1,), likely(-0.25), cached_tokens=4),
    Step('"quoted"\n', (3,), likely(-2.0)),
    Step("你", (2, 2), likely(-1.5, float("-inf"))),
    Step("", (), (), "stop", "END"),
)
