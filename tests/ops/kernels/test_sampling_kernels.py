"""Choosing tokens: the same tokens as the CPU's sampler, whatever the parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ops.cuda_sampling import PenaltyTable, SamplingTable, add_bias, adjust_logits, argmax, sample
from ops.reference import Sampling
from ops.reference import sample as reference_sample
from ops.sampling import draw, philox_uniforms

SEED = 0x1234_5678_9ABC_DEF0


def _table(rows: list[tuple[float, int, float, float]], seeds: list[int]) -> SamplingTable:
    """rows: (temperature, top_k, top_p, min_p)."""
    return SamplingTable(
        torch.tensor([1.0 / row[0] if row[0] else 0.0 for row in rows], dtype=torch.float32),
        torch.tensor([row[1] for row in rows], dtype=torch.int32),
        torch.tensor([row[2] for row in rows], dtype=torch.float32),
        torch.tensor([row[3] for row in rows], dtype=torch.float32),
        torch.tensor(seeds, dtype=torch.int64),
    )


def _sample(
    logits: torch.Tensor, table: SamplingTable, positions: list[int], slots: list[int] | None = None
) -> tuple[list[int], list[bool]]:
    rows = len(logits)
    tokens, chosen = sample(
        logits,
        torch.tensor(list(range(rows)) if slots is None else slots, dtype=torch.int32),
        torch.tensor(positions),
        table,
        torch.full(logits.shape, -1, dtype=torch.int32),
    )
    return tokens.tolist(), chosen.tolist()


PARAMETERS = [
    (1.0, 0, 1.0, 0.0),
    (0.7, 0, 1.0, 0.0),
    (1.3, 1, 1.0, 0.0),
    (1.0, 40, 1.0, 0.0),
    (0.8, 0, 0.9, 0.0),
    (1.0, 0, 0.01, 0.0),
    (1.0, 0, 0.999999, 0.0),
    (2.0, 50, 0.8, 0.0),
    (1.0, 0, 1.0, 0.05),
    (1.1, 20, 0.95, 0.1),
    (1.0, 5000, 0.5, 1.0),
]


@pytest.mark.parametrize(("vocab", "spread"), [(50, 4.0), (500, 0.5)])
def test_a_sample_is_the_cpus(vocab: int, spread: float) -> None:
    rows = len(PARAMETERS)
    torch.manual_seed(vocab)
    logits = spread * torch.randn(rows, vocab)
    seeds = [SEED + 7919 * i for i in range(rows)]
    positions = [3 * i for i in range(rows - 1)] + [2**32 + 5]
    tokens, chosen = _sample(logits, _table(PARAMETERS, seeds), positions)
    assert all(chosen)
    for row, how in enumerate(PARAMETERS):
        random = float(philox_uniforms(seeds[row], torch.tensor([positions[row]]))[0])
        assert tokens[row] == draw(logits[row].numpy(), *how, random), how
        meaning = Sampling(temperature=how[0], top_k=how[1], top_p=how[2], min_p=how[3])
        assert tokens[row] == reference_sample(logits[row], meaning, [], [], random), how


def test_negative_seeds_are_their_64_bits() -> None:
    logits = torch.randn(1, 300)
    random = float(philox_uniforms(-5, torch.tensor([9]))[0])
    assert _sample(logits, _table([(1.0, 0, 1.0, 0.0)], [-5]), [9])[0] == [
        draw(logits[0].numpy(), 1.0, 0, 1.0, 0.0, random)
    ]


def test_parameters_are_read_by_slot() -> None:
    logits = torch.randn(1, 300).expand(2, -1).contiguous()
    table = _table([(0.0, 0, 1.0, 0.0), (1.0, 0, 1.0, 0.0), (1.0, 1, 1.0, 0.0)], [1, 2, 3])
    tokens, _ = _sample(logits, table, [4, 4], slots=[2, 1])
    random = float(philox_uniforms(2, torch.tensor([4]))[0])
    assert tokens == [int(logits[0].argmax()), draw(logits[0].numpy(), 1.0, 0, 1.0, 0.0, random)]


def test_ties_at_a_cut_stay_and_greedy_takes_the_smallest_id() -> None:
    logits = torch.zeros(3, 300)
    logits[:, 200:] = 1.0
    table = _table([(1.0, 1, 1.0, 0.0), (1.0, 0, 0.1, 0.0), (0.0, 0, 1.0, 0.0)], [11, 12, 13])
    tokens, _ = _sample(logits, table, [0, 0, 0])
    randoms = [float(philox_uniforms(seed, torch.tensor([0]))[0]) for seed in (11, 12)]
    assert tokens == [200 + int(100 * randoms[0]), 200 + int(100 * randoms[1]), 200]


def test_forbidden_tokens_are_never_chosen() -> None:
    logits = torch.full((2, 300), float("-inf"))
    logits[0, 17] = -3.0
    logits[1, [5, 290]] = 2.0
    tokens, chosen = _sample(logits, _table([(1.0, 40, 0.9, 0.1), (1.0, 0, 0.9, 0.0)], [1, 2]), [0, 0])
    assert tokens[0] == 17
    assert tokens[1] in (5, 290)
    assert chosen == [True, True]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy's: the row's error is the point
def test_a_row_without_a_finite_largest_is_refused_alone(wrong: float) -> None:
    logits = torch.randn(2, 300)
    if wrong == float("-inf"):
        logits[0] = wrong
    else:
        logits[0, 250] = wrong
    expected = int(logits[1].argmax())
    table = _table([(1.0, 3, 0.9, 0.1), (0.0, 0, 1.0, 0.0)], [1, 2])
    assert _sample(logits, table, [0, 0]) == ([0, expected], [False, True])
    tokens, finite = argmax(logits)
    assert finite.tolist() == [False, True]
    assert int(tokens[1]) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_argmax_takes_the_smallest_id_among_equals(dtype: torch.dtype) -> None:
    logits = torch.randn(4, 17000).to(dtype)
    logits[0, [9000, 16999]] = 9.0
    logits[1] = float("-inf")
    logits[1, 16383] = -5.0
    logits[2, [3, 1027]] = 9.0
    assert argmax(logits)[0].tolist() == [9000, 16383, 3, int(logits[3].float().argmax())]


def test_penalties_are_the_cpus_to_the_bit() -> None:
    vocab, slots = 1100, [2, 0]
    logits = torch.randn(2, vocab)
    history = torch.zeros(3, vocab, dtype=torch.int32)
    prompt, output = [5, 6, 1099], [6, 7, 7, 7]
    for token in prompt:
        history[2, token] |= 1
    for token in output:
        history[2, token] += 2
    table = PenaltyTable(
        history, torch.tensor([1.0, 1.0, 1.3]), torch.tensor([0.0, 0.0, 0.7]), torch.tensor([0.0, 0.0, 0.2])
    )
    expected = logits.numpy().copy()
    seen = np.array(sorted({*prompt, *output}))
    counts = np.array([output.count(token) for token in seen], np.float32)
    values = expected[0, seen]
    values = np.where(values > 0, values / np.float32(1.3), values * np.float32(1.3))
    expected[0, seen] = values - np.float32(0.7) * counts - np.float32(0.2) * (counts > 0)
    adjust_logits(logits, torch.tensor(slots), table, None)
    assert np.array_equal(logits.numpy(), expected)


@pytest.mark.parametrize("vocab", [64, 1037])
def test_a_bitmask_forbids_what_is_not_set(vocab: int) -> None:
    allowed = torch.rand(2, vocab) < 0.5
    words = -(-vocab // 32)
    bits = torch.zeros(2, words * 32, dtype=torch.int64)
    bits[:, :vocab] = allowed
    packed = (bits.view(2, words, 32) << torch.arange(32)).sum(-1)
    packed = torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)
    logits = torch.randn(2, vocab)
    expected = logits.masked_fill(~allowed, float("-inf"))
    adjust_logits(logits, torch.tensor([0, 1]), None, packed)
    assert torch.equal(logits, expected)


def test_bias_is_added_by_row() -> None:
    logits = torch.randn(3, 200)
    expected = logits.clone()
    first = torch.arange(0, 200, 2, dtype=torch.int32)
    expected[0, first.long()] += 0.5
    expected[2, 7] = float("-inf")
    tokens = torch.cat((first, torch.tensor([7], dtype=torch.int32)))
    bias = torch.cat((torch.full((100,), 0.5), torch.tensor([float("-inf")])))
    add_bias(logits, torch.tensor([0, 100, 100, 101], dtype=torch.int32), tokens, bias)
    assert torch.equal(logits, expected)


def test_a_tensor_that_does_not_fit_names_its_argument() -> None:
    table = _table([(1.0, 0, 1.0, 0.0)], [0])
    with pytest.raises(ValueError, match="logits"):
        _sample(torch.ones(1, 8).half(), table, [0])
    with pytest.raises(ValueError, match="bitmask"):
        adjust_logits(torch.ones(1, 33), torch.tensor([0]), None, torch.zeros(1, 1, dtype=torch.int32))
