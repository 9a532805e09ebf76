"""One request's choices as JSON, streamed or whole: what both generation endpoints share.

Responsible for: the order of members, and a cheap path for the common chunk (some text, nothing else), which
is a join of bytes that were built beforehand around the text. `completions` and `chat` fill in the parts that
differ. Pure: text in, bytes out, no framing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import orjson

from compat.openai.common import Head, Usage
from compat.openai.logprobs import TokenBytes
from engine.types import TokenLogprobs


class Delta(Protocol):
    """What one step added to one choice. `token_ids` and `logprobs` align when logprobs were asked for."""

    @property
    def text(self) -> str: ...
    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def logprobs(self) -> Sequence[TokenLogprobs]: ...
    @property
    def finish_reason(self) -> str | None: ...
    @property
    def stop_reason(self) -> str | int | None: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def prompt_logprobs(self) -> Sequence[TokenLogprobs]: ...


@dataclass(frozen=True, slots=True)
class Shown:
    """Which optional parts a client asked for."""

    logprobs: bool = False
    token_ids: bool = False
    usage: bool = False  # a last chunk without choices
    continuous_usage: bool = False  # and in every chunk
    echo_logprobs: int | None = None  # log-probabilities begin with the prompt's, with so many alternatives
    prompt_logprobs: int | None = None  # the prompt's apart, in vLLM's shape
    output: bool = True  # False: the prompt's scores are all that was asked for


@dataclass(frozen=True, slots=True)
class Prompt:
    """Of one prompt: its ids, and the text that `echo` puts before every choice."""

    token_ids: Sequence[int]
    echo: str = ""


@dataclass(slots=True)
class Choice:
    """One choice so far."""

    index: int
    prompt: Prompt
    started: bool = False
    cached_tokens: int | None = None
    text_offset: int = 0
    parts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: Sequence[TokenLogprobs] = ()
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    @property
    def likelihood(self) -> float:
        """Log-probability per token, by which `best_of` chooses."""
        return sum(at.logprob for at in self.logprobs) / max(len(self.logprobs), 1)


@dataclass(frozen=True, slots=True)
class _ScoresAlone:
    """A delta without the token that had to be sampled to get them."""

    cached_tokens: int
    prompt_logprobs: Sequence[TokenLogprobs]
    finish_reason: str | None = "length"
    text: str = ""
    token_ids: Sequence[int] = ()
    logprobs: Sequence[TokenLogprobs] = ()
    stop_reason: str | int | None = None


class Encoder(ABC):
    """Owns the state of all choices of one request. Choice `i` continues prompt `i // n`.

    A stream is `feed(index, delta)` per step and `end()`; a whole answer is `collect(index, delta)` per step
    and `answer()`. One request uses one of the two.
    """

    chunk_object: ClassVar[str]
    answer_object: ClassVar[str]

    def __init__(
        self, head: Head, prompts: Sequence[Prompt], n: int, shown: Shown, bytes_of: TokenBytes
    ) -> None:
        self.choices = [Choice(i, prompts[i // n]) for i in range(len(prompts) * n)]
        self._n = n
        self._head = head
        self._shown = shown
        self._bytes_of = bytes_of
        self._prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts)
        self._completion_tokens = 0
        self._chunk_head = head.json(self.chunk_object)
        usage = b',"usage":null' if shown.usage else b""
        self._text_heads = [self._text_head(choice.index) for choice in self.choices]
        self._text_tail = self._text_end() + usage + b"}"
        self._plain = not (shown.logprobs or shown.token_ids or shown.continuous_usage)

    def feed(self, index: int, delta: Delta) -> list[bytes]:
        """The chunks that say what a step added."""
        choice = self.choices[index]
        if not self._shown.output:
            delta = _ScoresAlone(delta.cached_tokens, delta.prompt_logprobs)
        self._completion_tokens += len(delta.token_ids)
        if choice.started and self._plain and delta.finish_reason is None:
            return [self._text_heads[index] + orjson.dumps(delta.text) + self._text_tail]
        first = not choice.started
        if first:
            choice.started, choice.cached_tokens = True, delta.cached_tokens
            choice.prompt_logprobs = delta.prompt_logprobs
        return [self._chunk(choice, delta, first)]

    def end(self) -> list[bytes]:
        """The chunks after the last choice has ended."""
        if not self._shown.usage:
            return []
        return [self._chunk_head + b'"choices":[],"usage":' + self._usage().json() + b"}"]

    def collect(self, index: int, delta: Delta) -> None:
        choice = self.choices[index]
        if not self._shown.output:
            delta = _ScoresAlone(delta.cached_tokens, delta.prompt_logprobs)
        self._completion_tokens += len(delta.token_ids)
        if choice.cached_tokens is None:
            choice.cached_tokens = delta.cached_tokens
            choice.prompt_logprobs = delta.prompt_logprobs
        choice.parts.append(delta.text)
        choice.token_ids.extend(delta.token_ids)
        choice.logprobs.extend(delta.logprobs)
        choice.finish_reason, choice.stop_reason = delta.finish_reason, delta.stop_reason

    @property
    def scores_prompts(self) -> bool:
        return self._shown.echo_logprobs is not None or self._shown.prompt_logprobs is not None

    @property
    def scores(self) -> int:
        """Positions with log-probabilities that the answer will have."""
        if self._shown.logprobs:
            return sum(len(choice.logprobs) + len(choice.prompt_logprobs) for choice in self.choices)
        return sum(len(choice.prompt_logprobs) for choice in self.choices)

    def answer(self) -> bytes:
        """The whole answer, after every choice has been collected."""
        choices = b",".join(map(self._whole, self._chosen()))
        return b'%b"choices":[%b],"usage":%b%b}' % (
            self._head.json(self.answer_object),
            choices,
            self._usage().json(),
            self._answer_extra(),
        )

    def _chosen(self) -> Sequence[Choice]:
        """Those that are answered, with what a prompt's first choice knows of the prompt."""
        for choice in self.choices:
            choice.prompt_logprobs = self.choices[choice.index // self._n * self._n].prompt_logprobs
        return self.choices

    def _usage(self) -> Usage:
        """Of a prompt's choices the smallest hit counts: the others find what the first one had computed."""
        cached = 0
        for start in range(0, len(self.choices), self._n):
            known = [
                c.cached_tokens for c in self.choices[start : start + self._n] if c.cached_tokens is not None
            ]
            cached += min(known, default=0)
        return Usage(self._prompt_tokens, self._completion_tokens, cached)

    def _usage_member(self) -> bytes:
        if self._shown.continuous_usage:
            return b',"usage":' + self._usage().json()
        return b',"usage":null' if self._shown.usage else b""

    @abstractmethod
    def _text_head(self, index: int) -> bytes:
        """A chunk of text alone, up to its text."""

    @abstractmethod
    def _text_end(self) -> bytes:
        """And from its text on, up to the end of `choices`."""

    @abstractmethod
    def _chunk(self, choice: Choice, delta: Delta, first: bool) -> bytes:
        """A chunk with anything else in it."""

    @abstractmethod
    def _whole(self, choice: Choice) -> bytes:
        """A finished choice."""

    def _answer_extra(self) -> bytes:
        """Members after `usage`, each with a comma in front."""
        return b""


def finish_members(finish_reason: str | None, stop_reason: str | int | None) -> bytes:
    return b'"finish_reason":%b,"stop_reason":%b' % (orjson.dumps(finish_reason), orjson.dumps(stop_reason))
