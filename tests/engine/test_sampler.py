"""Sampling by slot: each parameter, isolation of rows, and independence of the batch."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import msgspec
import pytest
import torch

from engine.batch import SampledToken, ScheduledSequence, SlotInstall
from engine.runner.sampler import Sampler
from engine.types import SamplingParams
from ops import reference

VOCAB = 300
NONE: frozenset[int] = frozenset()
RANDOM = SamplingParams(max_tokens=100, seed=42, temperature=0.8)
GREEDY = SamplingParams(max_tokens=100, seed=0, temperature=0.0)


def _row(slot: int = 0, position: int = 10) -> ScheduledSequence:
    return ScheduledSequence(slot, position - 1, 1, None, sample=True)


def _one(
    params: SamplingParams, logits: torch.Tensor, prompt: tuple[int, ...] = (), position: int = 10
) -> SampledToken:
    sampler = Sampler(1, len(logits))
    sampler.install(SlotInstall(0, params, prompt))
    return sampler.sample(logits.unsqueeze(0), [_row(position=position)], NONE)[0]


def _logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def test_temperature_zero_takes_the_likeliest_token_and_the_smallest_id_of_equals() -> None:
    assert _one(GREEDY, torch.tensor([0.0, 3.0, 3.0, 1.0])).token_id == 1


def test_the_same_seed_and_position_give_the_same_token_and_others_differ() -> None:
    logits = torch.zeros(VOCAB)
    tokens = [_one(RANDOM, logits, position=position).token_id for position in range(20)]
    assert tokens == [_one(RANDOM, logits, position=position).token_id for position in range(20)]
    assert len(set(tokens)) > 10
    assert tokens != [
        _one(msgspec.structs.replace(RANDOM, seed=43), logits, position=p).token_id for p in range(20)
    ]


PARAMS = [
    GREEDY,
    RANDOM,
    msgspec.structs.replace(RANDOM, top_k=5, seed=1),
    msgspec.structs.replace(RANDOM, top_p=0.7, seed=2),
    msgspec.structs.replace(RANDOM, min_p=0.1, seed=3, logprobs=3),
    msgspec.structs.replace(RANDOM, presence_penalty=1.0, frequency_penalty=0.5, seed=4),
    msgspec.structs.replace(RANDOM, repetition_penalty=1.3, seed=5, logit_bias={7: 2.0}),
    msgspec.structs.replace(GREEDY, min_tokens=4, eos_token_ids=(3,)),
]


def test_a_rows_tokens_do_not_depend_on_the_batch() -> None:
    steps = [_logits(len(PARAMS), seed) for seed in range(12)]

    def alone(slot: int) -> list[SampledToken]:
        sampler = Sampler(1, VOCAB)
        sampler.install(SlotInstall(0, PARAMS[slot], (1, 2, 3)))
        return [
            sampler.sample(logits[slot : slot + 1], [_row(0, 3 + at)], NONE)[0]
            for at, logits in enumerate(steps)
        ]

    expected = [alone(slot) for slot in range(len(PARAMS))]
    rng = random.Random(0)
    sampler = Sampler(len(PARAMS), VOCAB)
    for slot, params in enumerate(PARAMS):
        sampler.install(SlotInstall(slot, params, (1, 2, 3)))
    done = [0] * len(PARAMS)
    while any(at < len(steps) for at in done):
        slots = [slot for slot, at in enumerate(done) if at < len(steps) and rng.random() < 0.6]
        if not slots:
            continue
        logits = torch.stack([steps[done[slot]][slot] for slot in slots])
        for found in sampler.sample(logits, [_row(slot, 3 + done[slot]) for slot in slots], NONE):
            assert found == replace(expected[found.slot][done[found.slot]], slot=found.slot)
            done[found.slot] += 1


@pytest.mark.parametrize("params", PARAMS[1:7])
def test_penalties_bias_and_truncation_are_the_reference(params: SamplingParams) -> None:
    prompt, outputs = [1, 2, 3, 3], list[int]()
    sampler = Sampler(1, VOCAB)
    sampler.install(SlotInstall(0, params, tuple(prompt)))
    how = reference.Sampling(
        params.temperature,
        params.top_k,
        params.top_p,
        params.min_p,
        params.presence_penalty,
        params.frequency_penalty,
        params.repetition_penalty,
        tuple(params.logit_bias.items()),
    )
    for step in range(30):
        logits = _logits(1, step // 10)
        expected = reference.sample(logits[0], how, prompt, outputs, reference.uniform(params.seed, 4 + step))
        found = sampler.sample(logits, [_row(0, 4 + step)], NONE)[0]
        assert found.token_id == expected
        outputs.append(expected)


def test_a_preempted_sequence_continues_as_if_it_had_never_stopped() -> None:
    params = msgspec.structs.replace(
        RANDOM, frequency_penalty=1.5, min_tokens=6, stop_token_ids=tuple(range(200))
    )
    steps = [_logits(1, seed) for seed in range(10)]
    whole, parts = Sampler(1, VOCAB), Sampler(1, VOCAB)
    whole.install(SlotInstall(0, params, (5,)))
    expected = [whole.sample(row, [_row(0, 1 + at)], NONE)[0].token_id for at, row in enumerate(steps)]
    for at, row in enumerate(steps):
        parts.install(SlotInstall(0, params, (5,), tuple(expected[:at])))
        assert parts.sample(row, [_row(0, 1 + at)], NONE)[0].token_id == expected[at]


def test_min_tokens_forbids_eos_and_stop_ids_until_so_many_are_generated() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, 3], logits[0, 4], logits[0, 5] = 9.0, 8.0, 7.0
    params = msgspec.structs.replace(GREEDY, min_tokens=2, eos_token_ids=(3,), stop_token_ids=(4,))
    sampler = Sampler(1, VOCAB)
    sampler.install(SlotInstall(0, params, ()))
    assert [sampler.sample(logits, [_row()], NONE)[0].token_id for _ in range(3)] == [5, 5, 3]
    ignoring = msgspec.structs.replace(params, ignore_eos=True)
    assert _one(ignoring, logits[0]).token_id == 3


def test_logprobs_are_of_the_models_own_distribution() -> None:
    logits = _logits(1)[0]
    params = msgspec.structs.replace(RANDOM, logprobs=4, logit_bias={9: 100.0}, top_k=2)
    found = _one(params, logits)
    expected = torch.log_softmax(logits.double(), 0)
    assert found.token_id == 9
    assert found.logprobs is not None
    assert math.isclose(found.logprobs.logprob, float(expected[9]))
    best = expected.topk(4)
    assert [item.token_id for item in found.logprobs.top] == best.indices.tolist()
    assert [item.logprob for item in found.logprobs.top] == pytest.approx(best.values.tolist())


def test_logprobs_of_zero_alternatives_have_the_chosen_token_only() -> None:
    found = _one(msgspec.structs.replace(GREEDY, logprobs=0), _logits(1)[0])
    assert found.logprobs is not None
    assert found.logprobs.top == ()


def test_what_is_wrong_with_one_row_is_that_rows_error_alone(caplog: pytest.LogCaptureFixture) -> None:
    logits = _logits(5)
    logits[1, 17] = math.nan
    sampler = Sampler(5, VOCAB)
    bad_bias = msgspec.structs.replace(GREEDY, logit_bias={VOCAB: 1.0})
    everything = msgspec.structs.replace(GREEDY, min_tokens=9, stop_token_ids=tuple(range(VOCAB)))
    for slot, params in enumerate((GREEDY, GREEDY, bad_bias, everything, RANDOM)):
        sampler.install(SlotInstall(slot, params, ()))
    found = sampler.sample(logits, [_row(slot) for slot in range(5)], NONE)
    assert [token.slot for token in found] == [0, 1, 2, 3, 4]
    assert [token.error is None for token in found] == [True, False, False, False, True]
    assert "not finite" in (found[1].error or "")
    assert f"token {VOCAB}" in (found[2].error or "")
    assert "forbidden" in (found[3].error or "")
    assert found[4].token_id == _one(RANDOM, logits[4]).token_id


def test_a_slot_with_invalid_input_gets_an_error() -> None:
    sampler = Sampler(2, VOCAB)
    for slot in (0, 1):
        sampler.install(SlotInstall(slot, GREEDY, ()))
    found = sampler.sample(_logits(2), [_row(0), _row(1)], frozenset({1}))
    assert found[0].error is None
    assert found[1].error == "a token id is not in the vocabulary"


def test_bf16_logits_are_sampled_like_their_fp32_values() -> None:
    logits = _logits(1)[0].bfloat16()
    assert _one(RANDOM, logits).token_id == _one(RANDOM, logits.float()).token_id
