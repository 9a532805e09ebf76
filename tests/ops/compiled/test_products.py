"""Products over panels: right, and for each row the same numbers whatever the other rows are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

pytest.importorskip("numba")

from engine.models.compiled import as_stored
from ops.compiled.products import _WIDEN_FROM, PANEL, to_panels
from tests.ops.compiled.kernels import multiply

DEPTH, ROWS = 75, 40
DTYPES = pytest.mark.parametrize("sixteen", [False, True], ids=["float32", "bfloat16"])

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(ROWS, DEPTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def weight() -> torch.Tensor:
    weight = torch.randn(PANEL, DEPTH, generator=torch.Generator().manual_seed(2))
    return weight.bfloat16().float()


def _product(x: torch.Tensor, panel: npt.NDArray[Any], onto: Floats | None = None) -> Floats:
    out = np.full((len(x), PANEL), np.nan, np.float32) if onto is None else onto.copy()
    scratch = np.full(DEPTH * PANEL, np.nan, np.float32)
    multiply(
        x.numpy().reshape(-1), len(x), panel, DEPTH, out.reshape(-1), np.bool_(onto is not None), scratch
    )
    return out


@DTYPES
def test_every_number_of_rows_gives_each_row_the_same_bits(
    x: torch.Tensor, weight: torch.Tensor, sixteen: bool
) -> None:
    assert ROWS > _WIDEN_FROM or sixteen is False  # both ways of widening
    panel = to_panels(as_stored(weight, sixteen))
    whole = _product(x, panel)
    np.testing.assert_allclose(whole, (x.double() @ weight.double().t()).numpy(), rtol=1e-5, atol=1e-5)
    for rows in range(1, ROWS):
        np.testing.assert_array_equal(_product(x[-rows:], panel), whole[-rows:])


def test_bfloat16_weights_give_the_bits_of_the_same_weights_in_float32(
    x: torch.Tensor, weight: torch.Tensor
) -> None:
    wide, stored = (to_panels(as_stored(weight, sixteen)) for sixteen in (False, True))
    assert (wide.itemsize, stored.itemsize) == (4, 2)
    for rows in (1, ROWS):
        np.testing.assert_array_equal(_product(x[:rows], stored), _product(x[:rows], wide))


@DTYPES
def test_a_product_can_go_on_from_what_is_there(x: torch.Tensor, weight: torch.Tensor, sixteen: bool) -> None:
    panel = to_panels(as_stored(weight, sixteen))
    residual = np.arange(ROWS * PANEL, dtype=np.float32).reshape(ROWS, PANEL)
    expected = residual + (x.double() @ weight.double().t()).numpy()
    np.testing.assert_allclose(_product(x, panel, residual), expected, rtol=1e-5, atol=1e-4)


@DTYPES
def test_nan_in_a_row_stays_there(x: torch.Tensor, weight: torch.Tensor, sixteen: bool) -> None:
    panel = to_panels(as_stored(weight, sixteen))
    broken = x.clone()
    broken[7] = torch.nan
    found = _product(broken, panel)
    assert np.isnan(found[7]).all()
    np.testing.assert_array_equal(np.delete(found, 7, 0), np.delete(_product(x, panel), 7, 0))


def test_outputs_that_fill_no_panel_are_padded_with_zeros() -> None:
    panels = to_panels(np.ones((PANEL + 3, DEPTH), np.float32)).reshape(2, DEPTH, PANEL)
    assert panels[0].all()
    assert panels[1, :, :3].all()
    assert not panels[1, :, 3:].any()
