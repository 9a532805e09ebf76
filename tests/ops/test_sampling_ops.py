"""Random numbers and the choice of a token, against the reference and against statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ops import reference
from ops.sampling import draw, log_softmax, philox_uniforms


def test_philox_gives_the_numbers_its_authors_published() -> None:
    ones = 0xFFFFFFFF
    assert reference.philox_4x32_10((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert reference.philox_4x32_10((ones,) * 4, (ones, ones)) == (
        0x408F276D,
        0x41C83B0E,
        0xA20BC7C6,
        0x6D5451FD,
    )
    pi = reference.philox_4x32_10((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0))
    assert pi == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)


@given(seed=st.integers(-(2**63), 2**64 - 1), position=st.integers(0, 2**40))
def test_uniforms_in_int64_tensors_are_the_reference(seed: int, position: int) -> None:
    found = philox_uniforms(seed, torch.tensor([position, position + 1]))
    assert found.tolist() == [reference.uniform(seed % 2**64, position + i) for i in (0, 1)]


def test_uniforms_are_uniform() -> None:
    numbers = np.sort(philox_uniforms(5, torch.arange(20_000)).numpy())
    assert np.abs(numbers - np.arange(20_000) / 20_000).max() < 0.015  # Kolmogorov-Smirnov, far below 1 %


def _reference(logits: torch.Tensor, how: reference.Sampling, random: float) -> int:
    return reference.sample(logits, how, [], [], random)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.sampled_from([3, 256, 257, 1000]),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 5, 5000]),
    top_p=st.sampled_from([1.0, 0.9, 0.3, 1e-6]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
    random=st.floats(0, 1, exclude_max=True),
)
def test_a_drawn_token_is_the_references(
    seed: int, size: int, temperature: float, top_k: int, top_p: float, min_p: float, random: float
) -> None:
    logits = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 4
    how = reference.Sampling(temperature, top_k, top_p, min_p)
    token = draw(logits.numpy(), temperature, top_k, top_p, min_p, random)
    # At the boundary between two tokens fp32 and fp64 may differ; nowhere else.
    assert token in {
        _reference(logits, how, min(max(random + d, 0.0), 1 - 1e-12)) for d in (-1e-5, 0.0, 1e-5)
    }


def test_the_share_of_each_token_is_its_probability() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0]).numpy()
    numbers = philox_uniforms(1, torch.arange(20_000)).tolist()
    tokens = np.bincount([draw(logits, 0.7, 0, 1.0, 0.0, number) for number in numbers], minlength=4)
    expected = torch.softmax(torch.from_numpy(logits) / 0.7, 0).numpy()
    assert np.abs(tokens / 20_000 - expected).max() < 0.01


def test_tokens_of_equal_logits_are_all_kept_at_a_cut() -> None:
    logits = np.array([1.0, 1.0, 0.0, 1.0], np.float32)
    assert {draw(logits, 1.0, 1, 1.0, 0.0, number) for number in (0.1, 0.5, 0.9)} == {0, 1, 3}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        draw(np.array([0.0, bad], np.float32), 1.0, 0, 1.0, 0.0, 0.5)


def test_a_forbidden_token_is_never_drawn() -> None:
    logits = np.array([-np.inf, 0.0, -np.inf, 5.0, -np.inf], np.float32)
    assert {draw(logits, 1.0, 0, 1.0, 0.0, number) for number in (0.0, 0.001, 0.5, 1 - 2**-53)} == {1, 3}


def test_log_softmax_is_the_reference() -> None:
    logits = torch.randn(1001) * 10
    assert np.allclose(log_softmax(logits.numpy()), reference.log_probabilities(logits).numpy(), atol=1e-12)
