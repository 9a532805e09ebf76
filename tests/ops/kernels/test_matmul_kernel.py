"""The batch-invariant product: right, and the same bits however many rows lie beside a row."""

from __future__ import annotations

import pytest
import torch

from ops.cuda_linear import linear

TOLERANCE = {torch.float16: 1e-3, torch.float32: 1e-5}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 200, 128), (70, 130, 96), (33, 64, 100)])
@pytest.mark.parametrize("extras", [False, True], ids=["plain", "bias and residual"])
def test_linear_is_the_product(m: int, n: int, k: int, dtype: torch.dtype, extras: bool) -> None:
    x, weight = torch.randn(m, 2 * k).to(dtype)[:, k:], torch.randn(n, k).to(dtype)
    bias = torch.randn(n).to(dtype) if extras else None
    residual = torch.randn(m, n).to(dtype) if extras else None
    expected = x.double() @ weight.double().t()
    if bias is not None and residual is not None:
        expected = expected + bias.double() + residual.double()
    result = linear(x, weight, bias, residual)
    error = torch.linalg.vector_norm(result.double() - expected) / torch.linalg.vector_norm(expected)
    assert error < TOLERANCE[dtype], float(error)


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    x, weight = torch.randn(67, 160).half(), torch.randn(130, 160).half()
    together = linear(x, weight)
    for begin, end in ((0, 1), (3, 40), (66, 67)):
        assert torch.equal(linear(x[begin:end], weight), together[begin:end])


def test_a_tensor_that_does_not_fit_names_its_argument() -> None:
    with pytest.raises(ValueError, match="weight"):
        linear(torch.ones(1, 8), torch.ones(4, 9))
    with pytest.raises(ValueError, match="residual"):
        linear(torch.ones(1, 8), torch.ones(4, 8), None, torch.ones(1, 5))
