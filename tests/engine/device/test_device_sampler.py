"""The sampler on the device gives the CPU's tokens, errors and log-probabilities, however a row is sampled."""

from __future__ import annotations

import json

import msgspec
import pytest
import torch
from tokenizers import Tokenizer

from engine.batch import SampledToken, ScheduledSequence, SlotInstall
from engine.runner.device_sampler import DeviceSampler
from engine.runner.sampler import Sampler
from engine.structured.grammar import Grammars
from engine.structured.tokenizer_json import tokenizer_json
from engine.types import SamplingParams
from server.config import BUNDLED_MODEL

VOCAB = 300
CPU = torch.device("cpu")
NONE: frozenset[int] = frozenset()
PROMPT = (1, 2, 3, 250)
RANDOM = SamplingParams(max_tokens=100, seed=42, temperature=0.8)
GREEDY = SamplingParams(max_tokens=100, seed=0, temperature=0.0)

CASES = [
    GREEDY,
    RANDOM,
    msgspec.structs.replace(RANDOM, top_k=5, seed=2**63 + 11),
    msgspec.structs.replace(RANDOM, top_p=0.7, min_p=0.02, seed=2, logprobs=2),
    msgspec.structs.replace(RANDOM, presence_penalty=1.0, frequency_penalty=0.5, seed=4),
    msgspec.structs.replace(GREEDY, repetition_penalty=1.5, logit_bias={7: 9.0, 8: -100.0}),
    msgspec.structs.replace(GREEDY, min_tokens=2, eos_token_ids=(3,), stop_token_ids=(5,), logprobs=0),
    msgspec.structs.replace(RANDOM, allowed_token_ids=(10, 11, 12, 299), seed=6),
    msgspec.structs.replace(GREEDY, bad_words=((7,), (20, 21))),
]


def _rows(slots: range, position: int) -> list[ScheduledSequence]:
    return [ScheduledSequence(slot, position - 1, 1, None, sample=True) for slot in slots]


def _logits(rows: int, seed: int) -> torch.Tensor:
    logits = torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    logits[:, 3] += 9.0  # what min_tokens forbids
    logits[:, 20] += 12.0 if seed % 2 == 0 else 0.0
    logits[:, 21] += 12.0 if seed % 2 == 1 else 0.0
    return logits


def _sample(
    sampler: DeviceSampler,
    logits: torch.Tensor,
    rows: list[ScheduledSequence],
    invalid: frozenset[int] = NONE,
) -> tuple[SampledToken, ...]:
    slots = torch.tensor([row.slot for row in rows], dtype=torch.int32)
    positions = torch.tensor([row.start + row.length for row in rows])
    return sampler.sample(logits, rows, slots, positions, invalid).tokens()


def _pair(cases: list[SamplingParams], grammars: Grammars | None = None) -> tuple[DeviceSampler, Sampler]:
    ours = DeviceSampler(len(cases), VOCAB, CPU, grammars)
    theirs = Sampler(len(cases), VOCAB, grammars)
    installs = [SlotInstall(slot, params, PROMPT, (20,)) for slot, params in enumerate(cases)]
    ours.install(installs)
    for install in installs:
        theirs.install(install)
    return ours, theirs


def _agree(ours: tuple[SampledToken, ...], theirs: tuple[SampledToken, ...]) -> None:
    assert [(token.slot, token.token_id, token.error) for token in ours] == [
        (token.slot, token.token_id, token.error) for token in theirs
    ]
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.logprobs is None) == (other.logprobs is None)
        if mine.logprobs is not None and other.logprobs is not None:
            assert mine.logprobs.logprob == pytest.approx(other.logprobs.logprob, abs=1e-12)
            assert [top.token_id for top in mine.logprobs.top] == [top.token_id for top in other.logprobs.top]


def test_every_way_of_sampling_gives_the_tokens_of_the_cpu() -> None:
    ours, theirs = _pair(CASES)
    rows = range(len(CASES))
    for step in range(2):
        logits = _logits(len(CASES), step)
        before = logits.clone()
        found = _sample(ours, logits, _rows(rows, 6 + step))
        _agree(found, theirs.sample(logits, _rows(rows, 6 + step), NONE))
        assert torch.equal(logits, before)
        assert ours.last_tokens.tolist() == [token.token_id for token in found]


def test_rows_that_fail_fail_alone_with_the_words_of_the_cpu() -> None:
    cases = [
        GREEDY,
        RANDOM,
        msgspec.structs.replace(GREEDY, logit_bias={VOCAB: 1.0}),
        msgspec.structs.replace(RANDOM, allowed_token_ids=()),
        RANDOM,
        GREEDY,
    ]
    ours, theirs = _pair(cases)
    logits = _logits(len(cases), 1)
    logits[0, 5] = torch.nan
    logits[1] = -torch.inf
    rows = _rows(range(len(cases)), 9)
    found = _sample(ours, logits, rows, frozenset({4}))
    _agree(found, theirs.sample(logits, rows, frozenset({4})))
    assert [token.error is None for token in found] == [False] * 5 + [True]


def test_an_output_follows_its_grammar_and_others_do_not_notice() -> None:
    read = tokenizer_json(BUNDLED_MODEL, None)
    vocab = Tokenizer.from_str(read()).get_vocab_size()
    grammars = Grammars(read, vocab)
    grammar = json.dumps({"grammars": [{"lark_grammar": 'start: "a" | "b"'}]})
    cases = [msgspec.structs.replace(RANDOM, grammar=grammar, eos_token_ids=(0,), seed=8), GREEDY]
    ours, theirs = DeviceSampler(2, vocab, CPU, grammars), Sampler(2, vocab, grammars)
    for slot, params in enumerate(cases):
        ours.install([SlotInstall(slot, params, PROMPT)])
        theirs.install(SlotInstall(slot, params, PROMPT))
    assert ours.waits(_rows(range(2), 5))
    assert not ours.waits(_rows(range(1, 2), 5))
    for step in range(2):
        logits = torch.randn(2, vocab, generator=torch.Generator().manual_seed(step))
        found = _sample(ours, logits, _rows(range(2), 5 + step))
        _agree(found, theirs.sample(logits, _rows(range(2), 5 + step), NONE))
        assert found[0].error is None
    assert found[0].token_id == 0, "the grammar is complete: only EOS may follow"


def test_a_slot_that_is_taken_anew_remembers_nothing() -> None:
    ours, _ = _pair([msgspec.structs.replace(GREEDY, repetition_penalty=50.0)])
    logits = torch.zeros(1, VOCAB)
    logits[0, 20] = 5.0
    logits[0, 30] = 1.0
    assert _sample(ours, logits, _rows(range(1), 6))[0].token_id == 30
    ours.install([SlotInstall(0, msgspec.structs.replace(GREEDY, repetition_penalty=50.0), PROMPT)])
    assert _sample(ours, logits, _rows(range(1), 6))[0].token_id == 20
