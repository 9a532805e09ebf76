"""The other kernels: norms, activation, rotation with the KV write, sampling, and the batch-invariant product.

Each is timed on a decode batch of 64 rows, where launches and latency count, and on 8192 rows, where bytes do.
Figures stand beside the bytes that must move over the measured bandwidth; gates are `ops.reference` in fp64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from bench.gpu.machine import Machine
from bench.gpu.report import AddRow
from bench.gpu.sections import Bench
from ops import cuda, reference
from ops.cuda_linear import linear
from ops.cuda_sampling import SamplingTable, argmax, sample


@dataclass(frozen=True, slots=True)
class Trial:
    """A call, the bytes it must move, and whether its result is right."""

    name: str
    call: Callable[[], object]
    num_bytes: int
    ok: bool


def run(bench: Bench) -> None:
    row = bench.report.table("row-wise kernels", "kernel, rows x width", "us", "floor us", "x floor", "GB/s")
    for rows in (2,) if bench.small else (64, 8192):
        for make in (_rms_norm, _add_rms_norm, _silu, _rope):
            if bench.time_for(f"{make.__name__} {rows}", 0.5):
                _print(bench, row, make(bench.machine, rows))
    for trial in _sampling(bench.machine):
        _print(bench, row, trial)
    _products(bench)


def _print(bench: Bench, row: AddRow, trial: Trial) -> None:
    if bench.report.gate(trial.name, trial.ok):
        seconds = bench.machine.seconds(trial.call)
        floor = trial.num_bytes / bench.machine.bandwidth
        row(trial.name, seconds * 1e6, floor * 1e6, seconds / floor, trial.num_bytes / seconds / 1e9)


def _rms_norm(machine: Machine, rows: int) -> Trial:
    hidden = 64 if machine.small else 4096
    x, weight = machine.randn(rows, hidden), machine.randn(hidden)
    ok = machine.close(cuda.rms_norm(x, weight, 1e-6), reference.rms_norm(x, weight, 1e-6))
    return Trial(f"rms_norm, {rows} x {hidden}", lambda: cuda.rms_norm(x, weight, 1e-6), 2 * x.nbytes, ok)


def _add_rms_norm(machine: Machine, rows: int) -> Trial:
    hidden = 64 if machine.small else 4096
    x, residual, weight = machine.randn(rows, hidden), machine.randn(rows, hidden), machine.randn(hidden)
    expected, total = reference.add_rms_norm(x, residual, weight, 1e-6)
    ok = machine.close(cuda.add_rms_norm(x, residual, weight, 1e-6), expected) and machine.close(
        residual, total
    )
    # Timed in place, the residual grows by x in every call: so it is timed on an x of zeros.
    zeros = torch.zeros_like(x)
    name = f"add_rms_norm, {rows} x {hidden}"
    return Trial(name, lambda: cuda.add_rms_norm(zeros, residual, weight, 1e-6), 4 * x.nbytes, ok)


def _silu(machine: Machine, rows: int) -> Trial:
    ffn = 96 if machine.small else 14336
    gate_up = machine.randn(rows, 2 * ffn)
    ok = machine.close(cuda.silu_and_mul(gate_up), reference.silu_and_mul(gate_up))
    return Trial(
        f"silu_and_mul, {rows} x {ffn}", lambda: cuda.silu_and_mul(gate_up), gate_up.nbytes * 3 // 2, ok
    )


def _rope(machine: Machine, rows: int) -> Trial:
    """With the norm of queries and keys, as Qwen3 has it."""
    heads, kv_heads, dim = (4, 2, 32) if machine.small else (16, 8, 128)
    page, blocks = 64, -(-rows // 64) + 1
    device = machine.device
    qkv = machine.randn(rows, heads + 2 * kv_heads, dim)
    angles = machine.randn(rows, dim // 2, dtype=torch.float32)
    weight = machine.randn(heads + kv_heads, dim, dtype=torch.float32)
    positions = torch.randperm(rows, device=device)
    slots = page + torch.randperm((blocks - 1) * page, device=device)[:rows]
    q_out = torch.full((rows, heads, dim), torch.nan, dtype=machine.dtype, device=device)
    kv = torch.full((blocks, 2, kv_heads, page, dim), torch.nan, dtype=machine.dtype, device=device)
    step = cuda.Rope(angles.cos(), angles.sin(), positions, slots)

    def call() -> None:
        cuda.rope_and_write_kv(qkv, step, q_out, kv, weight, 1e-6)

    call()
    wide = qkv[:, : heads + kv_heads].double()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * weight.double()
    cos, sin = (table[positions].repeat(1, 2) for table in (step.cos_PC, step.sin_PC))
    turned = reference.rope(wide, cos, sin)
    written = kv[slots // page, :, :, slots % page]
    ok = machine.close(q_out, turned[:, :heads]) and machine.close(written[:, 0], turned[:, heads:])
    ok = ok and torch.equal(written[:, 1], qkv[:, heads + kv_heads :])
    return Trial(f"qk-norm, rope, kv write, {rows} x {heads}/{kv_heads}", call, 2 * qkv.nbytes, ok)


def _sampling(machine: Machine) -> list[Trial]:
    rows, vocab = (1, 200) if machine.small else (64, 151936)
    device = machine.device
    logits = 3 * machine.randn(rows, vocab, dtype=torch.float32)
    ones = torch.ones(rows, device=device)
    fifty = torch.full((rows,), 50, dtype=torch.int32, device=device)
    positions = torch.arange(rows, device=device)
    table = SamplingTable(ones, fifty, 0.9 * ones, 0 * ones, positions)
    slots = torch.arange(rows, dtype=torch.int32, device=device)
    scratch = torch.empty(rows, vocab, dtype=torch.int32, device=device)

    best, finite = argmax(logits)
    greedy = bool(finite.all()) and torch.equal(logits.gather(1, best[:, None])[:, 0], logits.amax(1))
    tokens, chosen = sample(logits, slots, positions, table, scratch)
    above = (logits > logits.gather(1, tokens[:, None])).sum(1)
    among = bool(chosen.all()) and bool((above < 50).all())
    return [
        Trial(f"argmax, {rows} x {vocab}", lambda: argmax(logits), logits.nbytes, greedy),
        Trial(
            f"top-k 50, top-p 0.9, {rows} x {vocab}",
            lambda: sample(logits, slots, positions, table, scratch),
            logits.nbytes,
            among,
        ),
    ]


def _products(bench: Bench) -> None:
    """The product of deterministic mode against the library's, on one of an 8B model's linears."""
    row = bench.report.table(
        "batch-invariant product",
        "rows x inputs x outputs",
        "us",
        "floor us",
        "x floor",
        "torch us",
        "x torch",
    )
    machine = bench.machine
    outputs, inputs = (40, 64) if machine.small else (6144, 4096)
    weights = [machine.randn(outputs, inputs) for _ in range(1 if machine.small else 4)]  # more than L2 holds
    for rows in (3,) if machine.small else (1, 64, 2048):
        x = machine.randn(rows, inputs)
        result = linear(x, weights[0])
        ok = machine.close(result, x.double() @ weights[0].double().t())
        ok = ok and torch.equal(linear(x[-1:], weights[0]), result[-1:])
        label = f"{rows} x {inputs} x {outputs}"
        if bench.report.gate(f"product {label}", ok):
            ours = machine.seconds(*(partial(linear, x, weight) for weight in weights))
            theirs = machine.seconds(*(partial(torch.nn.functional.linear, x, weight) for weight in weights))
            floor = machine.floor(weights[0].nbytes + x.nbytes + result.nbytes, 2 * rows * inputs * outputs)
            row(label, ours * 1e6, floor * 1e6, ours / floor, theirs * 1e6, ours / theirs)
