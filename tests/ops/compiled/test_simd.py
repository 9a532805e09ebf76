"""2^x and the activations: as exact as float32 is, at its ends too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from tests.ops.compiled.kernels import activate

INF = float("inf")


def _activate(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """(2^x, silu, gelu)."""
    count = -(-len(x) // 16) * 16
    padded = np.zeros(count, np.float32)
    padded[: len(x)] = x.numpy()
    found = [np.full(count, np.nan, np.float32) for _ in range(3)]
    activate(padded, np.ones(count, np.float32), *found)
    return tuple(torch.from_numpy(each[: len(x)]) for each in found)


def test_powers_are_within_an_ulp_or_two() -> None:
    x = torch.linspace(-63.99, 127.0, 40_003)
    powers, _, _ = _activate(x)
    exact = torch.exp2(x.double())
    assert ((powers.double() - exact).abs() / exact).max() < 1.6e-7
    whole = torch.arange(-64.0, 128.0)
    assert torch.equal(_activate(whole)[0], torch.exp2(whole))


def test_of_powers_too_small_to_count_nothing_is_left_and_nan_stays() -> None:
    powers, _, _ = _activate(torch.tensor([-64.01, -1e30, -INF, torch.nan]))
    assert powers[:3].tolist() == [0.0, 0.0, 0.0]
    assert powers[3].isnan()


def test_activations_are_those_of_torch() -> None:
    x = torch.cat((torch.linspace(-40.0, 40.0, 20_001), torch.tensor([0.0, 1e-30, -1e-30, 1e30, -1e30])))
    _, silu, gelu = _activate(x)
    functional = torch.nn.functional
    for found, expected in (
        (silu, functional.silu(x.double())),
        (gelu, functional.gelu(x.double(), approximate="tanh")),
    ):
        error = (found.double() - expected).abs()
        assert (error <= 4e-7 * expected.abs() + 1e-8).all()
        assert found[x >= 20.0].equal(x[x >= 20.0])


def test_where_activations_have_no_value_there_is_none() -> None:
    for found in _activate(torch.tensor([torch.nan, INF, -INF]))[1:]:
        assert found[0].isnan()
        assert found[1] == INF
        assert not found[2].isfinite()  # torch has NaN there, and a limit would have 0
