"""Every kernel but attention compiles for sm_90 in every committed configuration: no spills, the matrix units used.

`pytest tests/ops -k compile -s` prints registers, shared memory and matrix instructions.
"""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels cannot be compiled", allow_module_level=True)

from ops import cuda, cuda_linear, cuda_sampling
from tests.ops.kernel_compiler import machines_of, meta, sass


@pytest.mark.parametrize("hidden", [1024, 4096])
def test_norms_compile_without_spills(hidden: int) -> None:
    x, weight = meta(8, hidden), meta(hidden)
    machines_of(lambda: cuda.rms_norm(x, weight, 1e-6))
    machines_of(lambda: cuda.add_rms_norm(x, x, weight, 1e-6))


def test_activations_compile_without_spills() -> None:
    machines_of(lambda: cuda.silu_and_mul(meta(8, 2 * 3072)))
    machines_of(lambda: cuda.gelu_tanh_and_mul(meta(8, 2 * 3072)))


@pytest.mark.parametrize("dim", [64, 128])
def test_rope_and_kv_write_compile_without_spills(dim: int) -> None:
    table = meta(4096, dim // 2, dtype=torch.float32)
    index = meta(8, dtype=torch.int32)
    step = cuda.Rope(table, table, index, index)
    kv = meta(100, 2, 8, 16, dim)
    weight = meta(24, dim, dtype=torch.float32)
    machines_of(lambda: cuda.rope_and_write_kv(meta(8, 32, dim), step, meta(8, 16, dim), kv, weight, 1e-6))
    machines_of(lambda: cuda.rope_and_write_kv(meta(8, 32, dim), step, meta(8, 16, dim), kv))


def test_block_copies_compile_without_spills() -> None:
    machines_of(lambda: cuda.copy_blocks(meta(28, 100, 2, 8, 16, 128), meta(3, 3, dtype=torch.int32)))


def test_sampling_compiles_without_spills() -> None:
    vocab, rows = 151936, 64
    logits, slots = meta(rows, vocab, dtype=torch.float32), meta(rows, dtype=torch.int32)
    single, whole = meta(rows, dtype=torch.float32), meta(rows, dtype=torch.int64)
    penalties = cuda_sampling.PenaltyTable(meta(rows, vocab, dtype=torch.int32), single, single, single)
    bitmask = meta(rows, -(-vocab // 32), dtype=torch.int32)
    table = cuda_sampling.SamplingTable(single, slots, single, single, whole)
    machines_of(lambda: cuda_sampling.adjust_logits(logits, slots, penalties, bitmask))
    offsets = meta(rows + 1, dtype=torch.int32)
    machines_of(lambda: cuda_sampling.add_bias(logits, offsets, slots, single))
    machines_of(lambda: cuda_sampling.argmax(logits))
    machines_of(
        lambda: cuda_sampling.sample(logits, slots, whole, table, meta(rows, vocab, dtype=torch.int32))
    )


@pytest.mark.parametrize(("n", "k"), [(6144, 4096), (4099, 4096), (1000, 1100)])
def test_the_batch_invariant_product_compiles_to_wgmma_without_spills(n: int, k: int) -> None:
    (machine,) = machines_of(lambda: cuda_linear.linear(meta(64, k), meta(n, k), meta(n), meta(64, n)))
    assert machine.hgmma > 0
    if n == 6144:
        code = sass(machine)
        assert (code["HGMMA"], code["HMMA"]) == (machine.hgmma, machine.hmma), "the PTX tells the truth"
        assert code["LDL"] == code["STL"] == 0


def test_the_batch_invariant_product_compiles_in_fp32() -> None:
    single = torch.float32
    machines_of(lambda: cuda_linear.linear(meta(64, 1024, dtype=single), meta(99, 1024, dtype=single)))
