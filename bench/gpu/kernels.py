"""Kernel tables on one GPU: attention, sampling and the deterministic product against the machine's ceilings.

`python -m bench.gpu.kernels` prints a table a line at a time, each behind a correctness check of the same
tensors in the same run. Bytes are counted, ceilings measured (a large copy, a large product). `--small` runs
the same code in small, under TRITON_INTERPRET=1 without a GPU too; its times mean nothing then.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from engine.plan import Rows, build_plan
from ops.cuda_attention import (
    AttentionShape,
    DevicePlan,
    Workspace,
    arrange_plan,
    new_workspace,
    paged_attention,
    upload_plan,
)
from ops.cuda_linear import linear
from ops.cuda_sampling import SamplingTable, argmax, sample

PAGE = 16


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the kit runs, and its measured ceilings: bytes and operations a second."""

    device: torch.device
    dtype: torch.dtype
    repeats: int
    bandwidth: float
    rate: float


def main(argv: list[str]) -> int:
    """Print the tables; 1 when a check failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.kernels")
    parser.add_argument("--small", action="store_true", help="small sizes, for a try without a GPU")
    small: bool = parser.parse_args(argv).small
    if not torch.cuda.is_available() and not small:
        print("no CUDA GPU here; --small under TRITON_INTERPRET=1 runs the same code in small")
        return 1
    machine = _machine(small)
    print(f"copy {machine.bandwidth / 1e9:.0f} GB/s, product {machine.rate / 1e12:.1f} TFLOP/s", flush=True)
    checks = [*_attention(machine, small), _sampling(machine, small), _product(machine, small)]
    return 0 if all(checks) else 1


def _machine(small: bool) -> Machine:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float16  # the interpreter has no bf16
    bare = Machine(device, dtype, 3 if small else 30, 1.0, 1.0)
    source = torch.randn(2**20 if small else 2**30, device=device).to(dtype)
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / _seconds(bare, lambda: target.copy_(source))
    size = 256 if small else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    rate = 2 * size**3 / _seconds(bare, lambda: a @ b)
    return Machine(device, dtype, bare.repeats, bandwidth, rate)


def _seconds(machine: Machine, call: Callable[[], object]) -> float:
    """The median of single calls, after a warm-up, by events on a GPU."""
    call()
    times: list[float] = []
    for _ in range(machine.repeats):
        if machine.device.type == "cuda":
            begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            begin.record()
            call()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        else:
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
    return statistics.median(times)


@dataclass(frozen=True, slots=True)
class Decode:
    """`batch` sequences with a common prefix and suffixes of their own, one query row each."""

    name: str
    heads: int
    kv_heads: int
    batch: int
    prefix: int
    suffix: tuple[int, int]  # lengths are uniform in [low, high]


def _cases(small: bool) -> list[Decode]:
    if small:
        return [Decode("small", 4, 2, 3, 256, (20, 40))]
    cases = [
        Decode(f"decode 32/8 {batch} x {n}", 32, 8, batch, 0, (n, n)) for batch, n in ((1, 4096), (64, 4096))
    ]
    for heads, kv_heads in ((32, 32), (32, 8)):
        for prefix in (6144, 16384):
            for suffix in (256, 1024):
                name = f"shared {heads}/{kv_heads} 64 x ({prefix} + {suffix})"
                cases.append(Decode(name, heads, kv_heads, 64, prefix, (suffix // 2, suffix)))
    return cases


def _attention(machine: Machine, small: bool) -> list[bool]:
    return [_decode(machine, case, 32 if small else 128) for case in _cases(small)]


def _decode(machine: Machine, case: Decode, dim: int) -> bool:
    """Time with sharing and without; both must give the same result as plain attention in fp32."""
    rows, blocks = _sequences(case)
    shape = AttentionShape(case.heads, case.kv_heads, dim, PAGE, machine.dtype, dim**-0.5)
    kv = torch.randn(blocks, 2, case.kv_heads, PAGE, dim, device=machine.device, dtype=machine.dtype)
    q = torch.randn(case.batch, case.heads, dim, device=machine.device, dtype=machine.dtype)
    outs, times = [], []
    for share in (True, False):
        plan, workspace = _prepare(rows, shape, machine, share)
        out = torch.full_like(q, torch.nan)
        times.append(_seconds(machine, lambda: paged_attention(q, kv, plan, workspace, out, shape)))  # noqa: B023
        outs.append(out.float())
    expected = torch.stack([_plain(q[i], kv, item, shape) for i, item in enumerate(rows)])
    right = all(float((out - expected).norm() / expected.norm()) < 1e-2 for out in outs)
    own = sum(item.start + 1 for item in rows) - case.prefix * (case.batch - 1)
    floor = own * 2 * case.kv_heads * dim * kv.element_size() / machine.bandwidth
    figures = f"{times[0] * 1e6:9.1f} us, {times[0] / floor:5.2f} x the bytes floor"
    if case.prefix:
        figures += f", {times[1] / times[0]:5.2f} x faster than unshared"
    print(f"{case.name:<28} {figures if right else 'WRONG'}", flush=True)
    return right


def _sequences(case: Decode) -> tuple[list[Rows], int]:
    """Decode rows over shuffled blocks, and how many blocks there are (block 0 is scratch)."""
    rng = random.Random(case.name)
    lengths = [case.prefix + rng.randint(*case.suffix) for _ in range(case.batch)]
    shared = case.prefix // PAGE
    needs = [-(-length // PAGE) - shared for length in lengths]
    ids = list(range(1, shared + sum(needs) + 1))
    rng.shuffle(ids)
    trunk, rest = ids[:shared], iter(ids[shared:])
    rows = [
        Rows(length - 1, 1, trunk + [next(rest) for _ in range(need)])
        for length, need in zip(lengths, needs, strict=True)
    ]
    return sorted(rows, key=lambda item: item.blocks), len(ids) + 1


def _prepare(
    rows: list[Rows], shape: AttentionShape, machine: Machine, share: bool
) -> tuple[DevicePlan, Workspace]:
    plan = build_plan(rows, PAGE, share)
    arranged = arrange_plan(plan.tiles, len(rows), shape, machine.device)
    positions = np.array([item.start for item in rows])
    return (
        upload_plan(arranged, plan.pages, positions, machine.device),
        new_workspace(arranged.parts, shape, machine.device),
    )


def _plain(q_HD: torch.Tensor, kv: torch.Tensor, item: Rows, shape: AttentionShape) -> torch.Tensor:
    pages = kv[torch.tensor(item.blocks, device=kv.device)].float()  # [blocks, 2, kv_heads, page, dim]
    keys, values = pages.permute(1, 2, 0, 3, 4).reshape(2, shape.kv_heads, -1, shape.head_dim)
    used = item.start + 1
    scores = q_HD.float().view(shape.kv_heads, shape.group, -1) @ keys[:, :used].transpose(1, 2)
    weights = torch.softmax(scores * shape.scale, -1)
    out: torch.Tensor = weights @ values[:, :used]
    return out.reshape(q_HD.shape)


def _sampling(machine: Machine, small: bool) -> bool:
    rows, vocab = (2, 1000) if small else (64, 151936)
    device = machine.device
    logits = 3 * torch.randn(rows, vocab, device=device)
    tokens, finite = argmax(logits)
    right = bool(finite.all()) and torch.equal(logits.gather(1, tokens[:, None])[:, 0], logits.amax(1))
    ones = torch.ones(rows, device=device)
    table = SamplingTable(
        ones, torch.full((rows,), 50, dtype=torch.int32, device=device), 0.9 * ones, 0 * ones,
        torch.arange(rows, device=device),
    )  # fmt: skip
    slots = torch.arange(rows, dtype=torch.int32, device=device)
    positions = torch.arange(rows, device=device)
    scratch = torch.empty(rows, vocab, dtype=torch.int32, device=device)
    tokens, chosen = sample(logits, slots, positions, table, scratch)
    right = right and bool(chosen.all())
    right = right and bool((logits >= logits.gather(1, tokens[:, None])).sum(1).le(50).all())
    floor = logits.nbytes / machine.bandwidth
    for name, call in (
        ("argmax", lambda: argmax(logits)),
        ("top-k 50, top-p 0.9", lambda: sample(logits, slots, positions, table, scratch)),
    ):
        seconds = _seconds(machine, call)
        figures = f"{seconds * 1e6:9.1f} us, {seconds / floor:5.2f} x the bytes floor"
        print(f"{f'{name} {rows} x {vocab}':<28} {figures if right else 'WRONG'}", flush=True)
    return right


def _product(machine: Machine, small: bool) -> bool:
    """The batch-invariant product and its price against the library's."""
    outputs, inputs = (130, 64) if small else (6144, 4096)
    weight = torch.randn(outputs, inputs, device=machine.device).to(machine.dtype)
    right = True
    for rows in (3, 70) if small else (1, 64, 2048):
        x = torch.randn(rows, inputs, device=machine.device).to(machine.dtype)
        expected = x.double() @ weight.double().t()
        result = linear(x, weight)
        ok = bool((result.double() - expected).norm() / expected.norm() < 1e-2)
        ok = ok and torch.equal(linear(x[-1:], weight), result[-1:])
        ours = _seconds(machine, lambda: linear(x, weight))  # noqa: B023
        theirs = _seconds(machine, lambda: torch.nn.functional.linear(x, weight))  # noqa: B023
        figures = f"{ours * 1e6:9.1f} us, {ours / theirs:5.2f} x the library's"
        print(f"{f'invariant {rows} x {inputs} x {outputs}':<28} {figures if ok else 'WRONG'}", flush=True)
        right = right and ok
    return right


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
