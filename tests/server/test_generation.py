"""What a generation's first delta carries is not lost while its text is held back."""

from __future__ import annotations

from engine.types import SamplingParams, TokenDelta, TokenLogprobs
from server.config import BUNDLED_MODEL
from server.generation import GenerationParams, TextAssembler
from server.tokenizer import Tokenizer

SCORES = (TokenLogprobs(-1.0, (), 2), TokenLogprobs(-2.0, (), 5))


def test_the_scores_of_a_prompt_come_with_the_first_text_that_is_shown() -> None:
    tokenizer = Tokenizer.from_folder(BUNDLED_MODEL)
    first, *rest = tokenizer.encode("Hello there", add_special_tokens=False)
    stop = tokenizer.token_text(first) + "!"  # the first token may become one
    assembler = TextAssembler(
        tokenizer, GenerationParams(SamplingParams(max_tokens=9, seed=0, prompt_logprobs=0), stop=(stop,))
    )
    assert assembler.feed(TokenDelta(1, (first,), prompt_logprobs=SCORES)) is None
    shown = assembler.feed(TokenDelta(1, (rest[0],)))
    assert shown is not None
    assert shown.prompt_logprobs == SCORES
    assert shown.token_ids == (first, rest[0])
    last = assembler.feed(TokenDelta(1, tuple(rest[1:]), finish_reason="length"))
    assert last is not None
    assert last.prompt_logprobs == ()


def test_they_come_with_an_output_that_ends_at_once() -> None:
    tokenizer = Tokenizer.from_folder(BUNDLED_MODEL)
    assembler = TextAssembler(tokenizer, GenerationParams(SamplingParams(max_tokens=9, seed=0)))
    only = assembler.feed(TokenDelta(1, (), finish_reason="stop", prompt_logprobs=SCORES))
    assert only is not None
    assert (only.text, only.finish_reason, only.prompt_logprobs) == ("", "stop", SCORES)
