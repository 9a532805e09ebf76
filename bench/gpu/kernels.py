"""Kernel tables: attention beside the bytes and operations it cannot do without, then everything row by row.

    decode          64 sequences of 4k tokens, nothing shared: share of the copy bandwidth
    shared prefix   64 sequences over one prefix: against our own paged kernel, and against the bytes floor
    prefill         TFLOP/s of long prompts, of a batch of short ones, and over a cached prefix

Gate of every line: fresh random data, results poisoned with NaN, rows against plain attention in fp32. A line whose
gate fails has no figures.
"""

from __future__ import annotations

import torch

from bench.gpu import rowwise
from bench.gpu.attention_case import Case, Layout, attention_call, make_case, right, uniform
from bench.gpu.report import AddRow
from bench.gpu.sections import Bench
from ops.cuda_attention import AttentionShape

PAGE = 64
"""Tokens of a block: the server's default. With its order of heads, these are the kernels that engines run."""


def run(bench: Bench) -> None:
    _decode(bench)
    _shared(bench)
    _prefill(bench)
    rowwise.run(bench)


def _shape(bench: Bench, heads: int, kv_heads: int) -> AttentionShape:
    dim = 32 if bench.small else 128
    return AttentionShape(heads, kv_heads, dim, PAGE, bench.machine.dtype, dim**-0.5, group_major=True)


def _decode(bench: Bench) -> None:
    row = bench.report.table("decode attention", "heads, batch x context", "us", "GB/s", "% copy", "x floor")
    cases = (
        ((2, 1, 2, 40),)
        if bench.small
        else ((32, 8, 64, 4096), (32, 32, 64, 4096), (16, 8, 64, 4096), (32, 8, 1, 4096))
    )
    for heads, kv_heads, batch, context in cases:
        label = f"{heads}/{kv_heads}, {batch} x {context}"
        if not bench.time_for(label, 1.0):
            continue
        case = make_case(bench.machine, Layout(0, (context,) * batch), _shape(bench, heads, kv_heads))
        seconds = _timed(bench, f"decode {label}", case, share=False)
        if seconds is not None:
            reached = case.floor_bytes / seconds / bench.machine.bandwidth
            floor = bench.machine.floor(case.floor_bytes, case.operations)
            row(label, seconds * 1e6, case.floor_bytes / seconds / 1e9, 100 * reached, seconds / floor)
            if batch > 1:
                bench.report.at_least(f"decode attention {label}, share of copy", reached, 0.8)


def _shared(bench: Bench) -> None:
    row = bench.report.table(
        "shared prefix attention",
        "heads, batch x (prefix + suffix)",
        "us",
        "x floor",
        "paged us",
        "x paged",
        "GB/s",
    )
    batch = 2 if bench.small else 64
    heads = ((1, 1), (2, 1)) if bench.small else ((32, 32), (32, 8))
    prefixes = ((256, 3.0),) if bench.small else ((6144, 3.0), (16384, 6.0))
    for query_heads, kv_heads in heads:
        for prefix, faster in prefixes:
            for suffix in (20,) if bench.small else (256, 1024):
                label = f"{query_heads}/{kv_heads}, {batch} x ({prefix} + {suffix})"
                if bench.time_for(label, 1.5):
                    layout = Layout(prefix, uniform(prefix + suffix, batch, suffix // 2, suffix))
                    case = make_case(bench.machine, layout, _shape(bench, query_heads, kv_heads))
                    _shared_point(bench, case, label, faster, row)


def _shared_point(bench: Bench, case: Case, label: str, faster: float, row: AddRow) -> None:
    """MHA is to be faster by the issue's factor; with grouped heads sharing may never be slower."""
    shared = _timed(bench, f"shared {label}", case, share=True)
    paged = _timed(bench, f"paged {label}", case, share=False)
    if shared is None or paged is None:
        return
    floor = case.floor_bytes / bench.machine.bandwidth
    row(label, shared * 1e6, shared / floor, paged * 1e6, paged / shared, case.floor_bytes / shared / 1e9)
    if case.shape.group == 1:
        bench.report.at_least(f"shared prefix {label}, over paged", paged / shared, faster, "x")
        bench.report.at_most(f"shared prefix {label}, over bytes floor", shared / floor, 2.0, "x")
    else:
        bench.report.at_least(f"shared prefix {label}, over paged", paged / shared, 1.0, "x")


def _prefill(bench: Bench) -> None:
    row = bench.report.table(
        "prefill attention", "heads, sequences x (cached + new)", "us", "TFLOP/s", "% product", "torch us"
    )
    full = ((32, 8, 1, 0, 8192), (32, 8, 1, 14336, 2048), (32, 8, 8, 0, 1024), (32, 32, 1, 0, 8192))
    for heads, kv_heads, count, cached, new in ((4, 2, 1, 64, 10),) if bench.small else full:
        label = f"{heads}/{kv_heads}, {count} x ({cached} + {new})"
        if not bench.time_for(label, 1.5):
            continue
        layout = Layout(0, (cached + new,) * count, new)
        case = make_case(bench.machine, layout, _shape(bench, heads, kv_heads))
        seconds = _timed(bench, f"prefill {label}", case, share=False)
        if seconds is not None:
            rate = case.operations / seconds
            theirs = None if cached else _torch_seconds(bench, case, count, new) * 1e6
            row(label, seconds * 1e6, rate / 1e12, 100 * rate / bench.machine.rate, theirs)


def _torch_seconds(bench: Bench, case: Case, count: int, new: int) -> float:
    """torch's own attention on contiguous tensors of the same sizes, to have something to compare with."""
    shape, machine = case.shape, bench.machine
    q = case.q_RHD.view(count, new, shape.heads, shape.head_dim).transpose(1, 2)
    k, v = (machine.randn(count, shape.kv_heads, new, shape.head_dim) for _ in range(2))
    attention = torch.nn.functional.scaled_dot_product_attention
    return machine.seconds(lambda: attention(q, k, v, is_causal=True, enable_gqa=shape.group > 1))


def _timed(bench: Bench, name: str, case: Case, share: bool) -> float | None:
    """Seconds of a call whose result is right; None: a gate failed."""
    call, out = attention_call(bench.machine, case, share)
    call()
    ok, detail = right(bench.machine, case, out)
    return bench.machine.seconds(call) if bench.report.gate(name, ok, detail) else None
