"""Log-probabilities in torch calls: the numbers of the CPU's numpy, ties by id."""

from __future__ import annotations

import pytest
import torch

from ops.cuda_logprobs import likeliest, logprobs
from ops.sampling import log_softmax


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_they_are_the_log_softmax_of_the_logits(dtype: torch.dtype) -> None:
    logits = (torch.randn(3, 211, generator=torch.Generator().manual_seed(1)) * 4).to(dtype)
    tokens = torch.tensor([5, 210, 0])
    chosen, ids, values = logprobs(logits, tokens, 4)
    for row in range(3):
        expected = log_softmax(logits[row].float().numpy())
        assert float(chosen[row]) == pytest.approx(float(expected[tokens[row]]), abs=1e-12)
        best = sorted(range(211), key=lambda token: (-expected[token], token))[:4]
        assert ids[row].tolist() == best
        assert values[row].tolist() == pytest.approx(expected[best].tolist(), abs=1e-12)


def test_of_equal_logits_the_smaller_id_comes_first_and_is_taken_first() -> None:
    logits = torch.tensor([[1.0, 2.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert likeliest(logits, 3).tolist() == [[1, 3, 0], [0, 1, 2]]
    assert likeliest(logits, 0).shape == (2, 0)
