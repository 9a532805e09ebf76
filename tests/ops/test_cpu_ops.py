"""The CPU's ops against the reference: random inputs, odd sizes, and rows that do not see each other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ops import reference
from ops.activation import gelu_tanh_and_mul, silu_and_mul
from ops.cpu import RopeStep, copy_block
from ops.linear import (
    CANDIDATES,
    CpuLinears,
    Linear,
    PackedLinear,
    PanelLinear,
    PlainLinear,
    RowPolicy,
    can_pack,
    choose_row_policy,
)
from ops.norm import rms_norm
from ops.rope import adjacent_pairs, rope_and_write_kv

TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 1e-3, torch.float32: 1e-5}
DTYPES = [torch.bfloat16, torch.float32]

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def assert_near(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    assert not found.isnan().any()
    error = (found.double() - expected).norm() / expected.norm()
    assert error < TOLERANCE[dtype], float(error)


@pytest.fixture
def two_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def normalised(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    norm, scale = rms_norm(weight, 1e-5)
    return norm(x) if scale is None else norm(x) * scale


@dtypes
@pytest.mark.parametrize("size", [1, 33, 96, 257, 1000])
def test_rms_norm_is_the_reference(dtype: torch.dtype, size: int) -> None:
    x, weight = torch.randn(7, size).to(dtype), torch.randn(size).to(dtype)
    assert_near(normalised(x, weight), reference.rms_norm(x, weight, 1e-5), dtype)


@dtypes
def test_rms_norm_of_tiny_numbers_counts_its_epsilon(dtype: torch.dtype) -> None:
    x, weight = torch.randn(3, 64).mul(1e-3).to(dtype), torch.ones(64, dtype=dtype)
    assert_near(normalised(x, weight), reference.rms_norm(x, weight, 1e-5), dtype)


def in_panels(x: torch.Tensor) -> torch.Tensor:
    """As parts of 32 columns, each with its rows one after another in memory."""
    return x.view(len(x), -1, 32).transpose(0, 1).contiguous().transpose(0, 1)


@dtypes
@pytest.mark.parametrize("rows", [1, 5, 300])
@pytest.mark.parametrize("op", ["silu", "gelu"])
def test_gated_activations_are_the_reference(dtype: torch.dtype, rows: int, op: str) -> None:
    x = torch.randn(rows, 2 * 192).to(dtype)
    found, expected = {
        "silu": (silu_and_mul, reference.silu_and_mul),
        "gelu": (gelu_tanh_and_mul, reference.gelu_tanh_and_mul),
    }[op]
    assert_near(found(x.view(rows, -1, 32)), expected(x), dtype)
    assert_near(found(in_panels(x)), expected(x), dtype)


@dtypes
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_row_of_an_activation_or_norm_does_not_depend_on_the_others(
    dtype: torch.dtype, threads: int
) -> None:
    before = torch.get_num_threads()
    x = torch.randn(517, 2 * 192).mul(3).to(dtype)
    norm, _ = rms_norm(torch.randn(384).to(dtype), 1e-5)
    ops = {
        "norm": norm,
        "silu": lambda x: silu_and_mul(x.view(len(x), 12, 32)),
        "gelu": lambda x: gelu_tanh_and_mul(x.view(len(x), 12, 32)),
    }
    torch.set_num_threads(1)
    alone = {name: torch.cat([op(row) for row in torch.split(x, 1)]) for name, op in ops.items()}
    if dtype == torch.float32:
        ops |= {"silu in panels": lambda x: silu_and_mul(in_panels(x))}
        alone["silu in panels"] = alone["silu"]
    try:
        torch.set_num_threads(threads)
        for name, op in ops.items():
            for begin, end in ((0, 517), (3, 20), (100, 400), (516, 517)):
                assert torch.equal(op(x[begin:end]), alone[name][begin:end])
    finally:
        torch.set_num_threads(before)


ROTATED = [
    *((dtype, False, *shape) for dtype in DTYPES for shape in ((7, 1, 80), (8, 4, 64), (2, 1, 24))),
    (torch.float32, True, 8, 4, 64),
    (torch.float32, True, 3, 1, 96),
]


def in_pairs(x: torch.Tensor) -> torch.Tensor:
    """The checkpoint's order of a head's elements, which is the reference's, to the one that the op wants."""
    return adjacent_pairs(x.movedim(-1, 0), x.shape[-1]).movedim(0, -1)


@dtypes
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("in_runs", [False, True])
@pytest.mark.parametrize(("rows", "heads", "kv_heads", "dim"), [(1, 4, 4, 8), (5, 6, 2, 24), (130, 8, 1, 64)])
def test_rope_and_write_kv_is_the_reference(
    dtype: torch.dtype, qk_norm: bool, in_runs: bool, rows: int, heads: int, kv_heads: int, dim: int
) -> None:
    qkv = torch.randn(rows, heads + 2 * kv_heads, dim).to(dtype)
    original = qkv.clone()
    angles = torch.rand(rows, dim // 2) * 100
    cos, sin = angles.cos(), angles.sin()
    slots = torch.cat((torch.arange(150, 150 + rows // 3), torch.arange(rows - rows // 3)))
    slots = slots if in_runs else torch.randperm(200)[:rows]
    runs = ((0, rows // 3, 150), (rows // 3, rows, 0)) if in_runs else None
    weight = torch.rand(heads + kv_heads, dim) + 0.5
    step = RopeStep(torch.complex(cos, sin).unsqueeze(1), slots, runs)
    queries = torch.full((rows, heads, dim), torch.nan, dtype=dtype)
    pool = torch.full((2 * kv_heads, 200, dim), torch.nan, dtype=dtype)

    qkv[:, : heads + kv_heads] = in_pairs(qkv[:, : heads + kv_heads])
    rope_and_write_kv(qkv, step, queries, pool, in_pairs(weight) if qk_norm else None, 1e-6)

    qk = original[:, : heads + kv_heads].double()
    if qk_norm:
        qk = torch.stack([reference.rms_norm(qk[:, i], weight[i], 1e-6) for i in range(qk.shape[1])], 1)
    rotated = reference.rope(qk, torch.cat((cos, cos), 1), torch.cat((sin, sin), 1))
    expected = torch.full((2 * kv_heads, 200, dim), torch.nan, dtype=torch.float64)
    reference.write_kv(in_pairs(rotated[:, heads:]), original[:, heads + kv_heads :], expected, slots)
    assert_near(queries, in_pairs(rotated[:, :heads]), dtype)
    assert torch.equal(pool.isnan(), expected.isnan())  # nothing but the rows' slots was written
    assert_near(pool.nan_to_num(), expected.nan_to_num(), dtype)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("dtype", "panels", "heads", "kv_heads", "dim"), ROTATED)
def test_a_rotated_row_does_not_depend_on_the_others(
    dtype: torch.dtype, threads: int, panels: bool, heads: int, kv_heads: int, dim: int
) -> None:
    qkv = torch.randn(517, heads + 2 * kv_heads, dim).to(dtype)
    rotation = torch.polar(torch.ones(517, 1, dim // 2), torch.rand(517, 1, dim // 2) * 100)
    weight, norms = torch.rand(heads + kv_heads, dim) + 0.5, threads != 2

    def rotated(begin: int, end: int) -> torch.Tensor:
        queries = torch.empty(end - begin, heads, dim, dtype=dtype)
        pool = torch.zeros(2 * kv_heads, end - begin, dim, dtype=dtype)
        step = RopeStep(rotation[begin:end], torch.arange(end - begin))
        part = qkv[begin:end].clone()
        if panels and end - begin > 1:
            part = part.transpose(0, 1).contiguous().transpose(0, 1)
        rope_and_write_kv(part, step, queries, pool, weight if norms else None, 1e-6)
        return torch.cat((queries, pool.transpose(0, 1)), 1)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = torch.cat([rotated(row, row + 1) for row in range(517)])
    try:
        torch.set_num_threads(threads)
        for begin, end in ((0, 517), (3, 20), (100, 400)):
            assert torch.equal(rotated(begin, end), alone[begin:end])
    finally:
        torch.set_num_threads(before)


def test_copy_block_copies_so_many_slots_of_every_layer() -> None:
    pool = torch.randn(3, 4, 32, 8)
    before = pool.clone()
    copy_block(pool, 8, 16, 5)
    assert torch.equal(pool[:, :, 16:21], before[:, :, 8:13])
    pool[:, :, 16:21] = before[:, :, 16:21]
    assert torch.equal(pool, before)


@dtypes
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("out_features", [50, 96])
@pytest.mark.parametrize("kind", [PackedLinear, PanelLinear, PlainLinear])
def test_linears_are_products_with_bias_and_residual(
    dtype: torch.dtype, bias: bool, out_features: int, kind: Callable[..., Linear]
) -> None:
    weight = torch.randn(out_features, 100).to(dtype)
    b = torch.randn(out_features).to(dtype) if bias else None
    x, residual = torch.randn(9, 100).to(dtype), torch.randn(9, out_features).to(dtype)
    linear = kind(weight, b)
    expected = x.double() @ weight.double().t() + (0 if b is None else b.double())
    assert_near(linear(x), expected, dtype)
    assert_near(linear.add(x, residual.clone()), expected + residual.double(), dtype)
    for width in (out_features // 2, 32 if out_features == 96 else 10):
        parts = kind(weight, b, width).parts(x)
        assert parts.shape == (9, out_features // width, width)
        assert_near(parts.reshape(9, -1), expected, dtype)


@dtypes
@pytest.mark.parametrize("shape", [(96, 256), (100, 50), (2048, 192)])
@pytest.mark.parametrize("kind", [PackedLinear, CpuLinears])
def test_rows_of_a_linear_agree_under_the_policy_that_the_self_test_finds(
    dtype: torch.dtype, shape: tuple[int, int], kind: type[PackedLinear] | type[CpuLinears]
) -> None:
    before = torch.get_num_threads()
    in_features, out_features = shape
    make = PackedLinear if kind is PackedLinear else CpuLinears(dtype)
    linear = make(torch.randn(out_features, in_features).mul(0.05).to(dtype), None)
    x, residual = torch.randn(512, in_features).to(dtype), torch.randn(512, out_features).to(dtype)
    try:
        policy = choose_row_policy([linear], [linear], dtype, torch.set_num_threads, 2)
        top = policy.most
        whole, added = linear(x[:top]), linear.add(x[:top], residual[:top].clone())
        for rows in (*policy.sizes, *policy.wide):
            for threads in (1, 2):
                torch.set_num_threads(threads)
                assert torch.equal(linear(x[:rows]), whole[:rows])
                assert torch.equal(linear(x[top - rows : top]), whole[top - rows :])  # wherever a row lies
                assert torch.equal(linear.add(x[:rows], residual[:rows].clone()), added[:rows])
    finally:
        torch.set_num_threads(before)


def test_small_weights_in_fp32_are_cut_into_panels_unless_their_rows_disagree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small, large = torch.randn(64, 96), torch.randn(2048, 768)
    linears = CpuLinears(torch.float32)
    assert isinstance(linears(small, None), PanelLinear)
    assert not isinstance(linears(large, None), PanelLinear)
    assert not isinstance(CpuLinears(torch.bfloat16)(small.bfloat16(), None), PanelLinear)

    def by_count(self: PanelLinear, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return residual + len(x)

    monkeypatch.setattr(PanelLinear, "add", by_count)
    assert not isinstance(CpuLinears(torch.float32)(small, None), PanelLinear)


def test_rows_are_cut_into_tiles_of_few_sizes() -> None:
    policy = RowPolicy((2, 8, 16))
    assert [policy.padded(rows) for rows in (1, 2, 3, 16, 17, 40)] == [2, 2, 8, 16, 18, 40]
    assert policy.tiles(18) == [(0, 16), (16, 18)]
    assert policy.tiles(8) == [(0, 8)]
    wide = RowPolicy((2, 16), (64, 32))
    assert wide.padded(113) == 114
    assert wide.tiles(114) == [(0, 64), (64, 96), (96, 112), (112, 114)]


@pytest.mark.parametrize("policy", CANDIDATES)
def test_tiles_have_sizes_of_their_policy_and_hold_all_rows(policy: RowPolicy) -> None:
    for rows in range(1, 600):
        padded = policy.padded(rows)
        tiles = policy.tiles(padded)
        assert padded >= rows > padded - policy.tile
        assert all(end - begin in (*policy.sizes, *policy.wide) for begin, end in tiles)
        assert [0, *(end for _, end in tiles)] == [*(begin for begin, _ in tiles), padded]


def test_a_dtype_that_cannot_be_packed_is_said_once_and_not_packed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert not can_pack(torch.int8)
    assert "using F.linear" in caplog.text
