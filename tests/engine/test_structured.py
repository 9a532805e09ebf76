"""Constrained sampling: grammars, allowed ids and bad words, against the bundled model's tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import torch
from llguidance import LLMatcher
from tokenizers import Tokenizer

from engine.batch import SampledToken, ScheduledSequence, SlotInstall
from engine.runner.sampler import Sampler
from engine.structured.grammar import KEPT, GrammarError, Grammars
from engine.structured.tokenizer_json import tokenizer_json
from engine.types import SamplingParams

FOLDER = Path(__file__).resolve().parents[2] / "models" / "parrot-tales"
VOCAB = 2720  # more than the tokenizer has, as models are padded
EOS = 1
REGEX = LLMatcher.grammar_from_regex("(yes|no), [0-9]{3}!")
SAMPLED = SamplingParams(max_tokens=50, seed=3, temperature=1.0, grammar=REGEX, eos_token_ids=(EOS,))
GREEDY = msgspec.structs.replace(SAMPLED, temperature=0.0)
FREE = SamplingParams(max_tokens=50, seed=3)
NONE: frozenset[int] = frozenset()


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(tokenizer_json(FOLDER, None), VOCAB)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def _logits(position: int, rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(position))


def _sample(sampler: Sampler, position: int, slots: Sequence[int] = (0,)) -> tuple[SampledToken, ...]:
    items = [ScheduledSequence(slot, position - 1, 1, None, sample=True) for slot in slots]
    return sampler.sample(_logits(position).expand(len(slots), -1), items, NONE)


def _output(sampler: Sampler, begun: tuple[int, ...] = ()) -> list[int]:
    """Tokens up to EOS."""
    ids = list(begun)
    while not ids or ids[-1] != EOS:
        (token,) = _sample(sampler, 5 + len(ids))
        assert token.error is None
        ids.append(token.token_id)
    return ids


def _sampler(grammars: Grammars, params: SamplingParams, begun: tuple[int, ...] = ()) -> Sampler:
    sampler = Sampler(4, VOCAB, grammars)
    sampler.install(SlotInstall(0, params, (9, 9, 9, 9, 9), begun))
    return sampler


@pytest.mark.parametrize("params", [SAMPLED, GREEDY])
def test_an_output_matches_its_grammar_and_ends_with_it(
    grammars: Grammars, tokenizer: Tokenizer, params: SamplingParams
) -> None:
    *ids, end = _output(_sampler(grammars, params))
    assert end == EOS
    assert re.fullmatch("(yes|no), [0-9]{3}!", tokenizer.decode(ids))


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_sequence_that_is_resumed_continues_as_if_it_had_never_stopped(
    grammars: Grammars, cut: int
) -> None:
    whole = _output(_sampler(grammars, SAMPLED))
    begun = tuple(whole[:cut])
    assert _output(_sampler(grammars, SAMPLED, begun), begun) == whole


def test_rows_without_a_grammar_are_as_they_were(grammars: Grammars) -> None:
    mixed, alone = Sampler(4, VOCAB, grammars), Sampler(4, VOCAB)
    for slot, params in enumerate((FREE, SAMPLED, FREE)):
        mixed.install(SlotInstall(slot, params, (5,)))
    alone.install(SlotInstall(0, FREE, (5,)))
    free, constrained, other = _sample(mixed, 7, (0, 1, 2))
    assert free.token_id == other.token_id == _sample(alone, 7)[0].token_id != constrained.token_id


def test_a_grammar_that_fails_fails_its_own_row(grammars: Grammars) -> None:
    sampler = Sampler(4, VOCAB, grammars)
    broken = msgspec.structs.replace(SAMPLED, grammar=LLMatcher.grammar_from_regex("("))
    for slot, params in enumerate((broken, SAMPLED)):
        sampler.install(SlotInstall(slot, params, (5,)))
    wrong, right = _sample(sampler, 7, (0, 1))
    assert "cannot be compiled" in (wrong.error or "")
    assert right.error is None


def test_outputs_that_do_not_match_are_an_error(grammars: Grammars) -> None:
    pending = grammars.matcher(REGEX, (EOS,), (500, 501))
    with pytest.raises(GrammarError, match="cannot be followed"):
        pending.get()


def test_an_engine_without_grammars_says_so() -> None:
    sampler = Sampler(1, VOCAB)
    sampler.install(SlotInstall(0, SAMPLED, (5,)))
    assert "cannot follow grammars" in (_sample(sampler, 7)[0].error or "")


def test_logprobs_are_of_the_model_s_own_distribution(grammars: Grammars) -> None:
    params = msgspec.structs.replace(SAMPLED, logprobs=2)
    (token,) = _sample(_sampler(grammars, params), 7)
    expected = torch.log_softmax(_logits(7)[0].double(), -1)
    assert token.logprobs is not None
    assert token.logprobs.logprob == pytest.approx(float(expected[token.token_id]))
    assert token.logprobs.top[0].logprob == pytest.approx(float(expected.max()))


def test_grammars_are_compiled_once_and_bounded(grammars: Grammars) -> None:
    first = grammars._thread.submit(lambda: None)
    first.result()
    for number in range(KEPT + 10):
        grammars.matcher(LLMatcher.grammar_from_regex(f"a{number}"), (EOS,), ()).get()
    assert len(grammars._compiled) == KEPT


def test_only_allowed_ids_come_out(grammars: Grammars) -> None:
    sampler = Sampler(1, VOCAB)
    sampler.install(SlotInstall(0, msgspec.structs.replace(FREE, allowed_token_ids=(7, 8)), (5,)))
    assert {_sample(sampler, position)[0].token_id for position in range(1, 40)} == {7, 8}


def test_bad_words_never_come_out_whole() -> None:
    params = msgspec.structs.replace(FREE, allowed_token_ids=(7, 8, 9, 10), bad_words=((7, 8), (10,)))
    sampler = Sampler(1, VOCAB)
    sampler.install(SlotInstall(0, params, (5,)))
    ids = [_sample(sampler, position)[0].token_id for position in range(1, 120)]
    assert set(ids) == {7, 8, 9}
    pairs = {*pairwise(ids)}
    assert pairs >= {(8, 7), (7, 9), (9, 8)}
    assert (7, 8) not in pairs


def test_a_resumed_sequence_remembers_what_came_before_a_bad_word() -> None:
    params = msgspec.structs.replace(FREE, allowed_token_ids=(8, 9), bad_words=((7, 8),))
    sampler = Sampler(1, VOCAB)
    sampler.install(SlotInstall(0, params, (5,), (7,)))
    assert _sample(sampler, 7)[0].token_id == 9


def test_when_everything_is_forbidden_that_row_says_so() -> None:
    params = msgspec.structs.replace(FREE, allowed_token_ids=(7,), bad_words=((7,),))
    sampler = Sampler(1, VOCAB)
    sampler.install(SlotInstall(0, params, (5,)))
    assert "every one is forbidden" in (_sample(sampler, 7)[0].error or "")
