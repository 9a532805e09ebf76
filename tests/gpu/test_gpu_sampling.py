"""Choosing tokens and the batch-invariant product on a GPU: the CPU's tokens, the same bits in any batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("triton")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA GPU", allow_module_level=True)

from ops.cuda_linear import linear
from ops.cuda_sampling import PenaltyTable, SamplingTable, adjust_logits, argmax, sample
from ops.sampling import draw, philox_uniforms

DEVICE = torch.device("cuda")
PARAMETERS = [  # temperature, top_k, top_p, min_p
    (1.0, 0, 1.0, 0.0),
    (0.7, 40, 1.0, 0.0),
    (0.8, 0, 0.9, 0.0),
    (1.0, 0, 0.9999, 0.0),
    (2.0, 50, 0.8, 0.0),
    (1.0, 0, 1.0, 0.05),
    (1.1, 20, 0.95, 0.1),
    (1.0, 50000, 0.5, 0.0),
]


@pytest.mark.parametrize("vocab", [1111, 32000, 151936])
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_samples_are_the_cpus(vocab: int, spread: float) -> None:
    """All but what fp32 rounding moves over an edge of the cumulative distribution: 1 row of 256 at most."""
    torch.manual_seed(vocab)
    rows = 256
    logits = spread * torch.randn(rows, vocab)
    how = [PARAMETERS[row % len(PARAMETERS)] for row in range(rows)]
    table = SamplingTable(
        torch.tensor([1.0 / item[0] for item in how], device=DEVICE),
        torch.tensor([item[1] for item in how], dtype=torch.int32, device=DEVICE),
        torch.tensor([item[2] for item in how], device=DEVICE),
        torch.tensor([item[3] for item in how], device=DEVICE),
        torch.arange(rows, device=DEVICE) * 0x1234567,
    )
    slots = torch.arange(rows, dtype=torch.int32, device=DEVICE)
    positions = torch.arange(rows, device=DEVICE) + 2**32 - 100
    scratch = torch.full((rows, vocab), -1, dtype=torch.int32, device=DEVICE)
    tokens, chosen = sample(logits.to(DEVICE), slots, positions, table, scratch)
    assert chosen.all()
    wrong = 0
    for row, item in enumerate(how):
        random = float(philox_uniforms(row * 0x1234567, torch.tensor([row + 2**32 - 100]))[0])
        wrong += int(tokens[row]) != draw(logits[row].numpy(), *item, random)
    assert wrong <= 1
    again, _ = sample(logits[7:8].to(DEVICE), slots[7:8], positions[7:8], table, scratch)
    assert int(again[0]) == int(tokens[7])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_argmax_takes_the_smallest_id_among_equals(dtype: torch.dtype) -> None:
    logits = torch.randn(64, 151936, device=DEVICE).to(dtype)
    tokens, finite = argmax(logits)
    assert finite.all()
    assert tokens.tolist() == logits.float().cpu().numpy().argmax(-1).tolist()
    logits[3, 5] = torch.nan
    assert argmax(logits)[1].tolist() == [row != 3 for row in range(64)]


def test_penalties_are_the_cpus_to_the_bit() -> None:
    logits = torch.randn(2, 32000)
    times = torch.randint(0, 3, (2, 32000), dtype=torch.int32)
    prompt = torch.randint(0, 2, (2, 32000), dtype=torch.int32)
    values = logits.numpy()
    seen, counts = ((times + prompt) > 0).numpy(), times.numpy().astype(np.float32)
    repeated = np.where(values > 0, values / np.float32(1.3), values * np.float32(1.3))
    expected = np.where(seen, repeated, values)
    expected = expected - np.float32(0.7) * counts - np.float32(0.2) * (counts > 0)
    single = [torch.full((2,), value, device=DEVICE) for value in (1.3, 0.7, 0.2)]
    table = PenaltyTable((2 * times + prompt).to(DEVICE), *single)
    result = logits.to(DEVICE)
    adjust_logits(result, torch.tensor([0, 1], device=DEVICE), table, None)
    assert np.array_equal(result.cpu().numpy(), expected)


@pytest.mark.parametrize(("n", "k"), [(4096, 4096), (1000, 1100), (151936, 1024)])
def test_the_batch_invariant_product_gives_a_row_the_same_bits_in_any_batch(n: int, k: int) -> None:
    x = torch.randn(300, k, device=DEVICE).bfloat16()
    weight = torch.randn(n, k, device=DEVICE).bfloat16()
    together = linear(x, weight)
    expected = x.double() @ weight.double().t()
    error = torch.linalg.vector_norm(together.double() - expected) / torch.linalg.vector_norm(expected)
    assert error < 1e-2
    for begin, end in ((0, 1), (17, 18), (3, 131), (299, 300)):
        assert torch.equal(linear(x[begin:end], weight), together[begin:end])
